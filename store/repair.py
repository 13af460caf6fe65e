"""Taking out of a store what `verify` finds wrong, so that the job fills it again."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

from store.check import VerifyReport, check_shard, verify
from store.claims import list_shards
from store.create import read_header, write_header
from store.errors import StoreError
from store.folder import StrPath, discard_leftovers, sync_folder
from store.growth import read_keys, stored_labels, write_keys
from store.header import Header
from store.layout import header_name, keys_name, shard_name
from store.rows import list_digest
from store.seal import is_sealed
from store.spec import HEAD_FILE

ALIVE_S = 120.0  # a writer heard of within this time may be at work


def repair(path: StrPath) -> tuple[VerifyReport, list[str]]:
    """What `verify` finds, and a line on each file that was then removed or set aside.

    A damaged shard or head is removed, and so is what a dead writer of this machine left. A whole file in the place
    of another shard, perhaps the only copy, gets another name. Sound shards, the header and files of other names
    stay; lost headers and keys from before an extension are written again.

    Raises StoreError where there is no readable header, or where somebody is at work.
    """
    folder = Path(path)
    header = read_header(folder)
    _refuse_while_at_work(folder, header)
    report = verify(folder)
    _refuse_while_at_work(folder, header)  # since `verify` may have taken an hour
    done = [f"{file.name}: left by a dead writer, removed" for file in discard_leftovers(folder)]
    for shard in sorted({problem.shard for problem in report.problems if problem.shard is not None}):
        file = folder / shard_name(shard)
        if file.is_file() and check_shard(file, header, shard):  # it may have been replaced since
            done.append(_take_away(file))
    if any(problem.message.startswith(HEAD_FILE) for problem in report.problems) and (folder / HEAD_FILE).exists():
        done.append(_take_away(folder / HEAD_FILE))
    sync_folder(folder)
    return report, done + _restore(folder, header)


def _restore(folder: Path, header: Header) -> list[str]:
    """Write again what an extension keeps of the store before it, where it is lost and the rest tells it."""
    done = []
    for number in range(len(header.earlier)):
        before = header.before(number)
        if not _is_sound(lambda before=before: read_header(folder, len(before.earlier))):  # type: ignore[misc]
            (folder / header_name(number)).unlink(missing_ok=True)
            write_header(folder, before)
            done.append(f"{header_name(number)}: written again")
    if header.earlier and not _is_sound(lambda: read_keys(folder, header)):
        labels = list(stored_labels(folder, header).items())[: header.earlier[-1][0]]
        keys = [key for key, _ in labels]
        if list_digest(keys, [label for _, label in labels]) == header.earlier[-1][1]:
            write_keys(folder, header, keys)
            done.append(f"{keys_name(len(header.earlier))}: written again")
    return done


def _is_sound(read: Callable[[], object]) -> bool:
    try:
        read()
    except StoreError:
        return False
    return True


def _take_away(file: Path) -> str:
    if not is_sealed(file):
        file.unlink()
        return f"{file.name}: damaged, removed"
    names = (file.with_name(f"{file.name}.aside{number or ''}") for number in count())
    aside = next(name for name in names if not name.exists())
    file.rename(aside)
    return f"{file.name}: whole, but not what belongs here; now {aside.name}"


def _refuse_while_at_work(folder: Path, header: Header) -> None:
    claims = list_shards(folder, header).claims
    alive = [claim for claim in claims if not claim.dead and claim.age_s <= ALIVE_S]
    if alive:
        raise StoreError(
            f"{folder}: expected nobody at work, found {alive[0].host} pid {alive[0].pid} at shard {alive[0].shard}, "
            f"heard of {alive[0].age_s:.0f} s ago; stop the job, or repair after its end"
        )
