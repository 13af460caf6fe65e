"""Taking out of a store what `verify` finds wrong, so that the job fills it again, or its last extension."""

from __future__ import annotations

import contextlib
import os
import time
from itertools import count
from pathlib import Path

from store.checking.verify import VerifyReport, check_shard, verify
from store.errors import StoreError
from store.folder.claims import list_shards
from store.folder.create import read_header, write_header
from store.folder.extension import stored_labels, write_keys
from store.folder.files import StrPath, discard_leftovers, present_shards, split_temporary, sync_folder
from store.format.checksum import has_checksum
from store.format.header import Header
from store.format.rows import list_digest
from store.spec import HEAD_FILE, INDEX_FILE, header_name, keys_name, shard_name

ALIVE_S = 120.0  # a writer heard of within this time may be at work


def repair(path: StrPath) -> tuple[VerifyReport, list[str]]:
    """What `verify` finds, and a line on each file that was then removed, set aside or written again.

    A damaged shard or head is removed, and the index with it; so is what writers left that are dead or, beside the
    complete file, silent. A whole file in the place of another, perhaps the only copy, gets another name. Sound
    shards, the last header and files of other names stay; lost headers and keys from before an extension are
    written again.

    Raises StoreError where there is no readable header, or where somebody is at work.
    """
    folder = Path(path)
    header = read_header(folder)
    _refuse_while_at_work(folder, header)
    report = verify(folder)
    _refuse_while_at_work(folder, header)  # since `verify` may have taken an hour
    left = [*discard_leftovers(folder), *_discard_silent(folder)]
    done = [f"{file.name}: left by a dead writer, removed" for file in left]
    # first, as a damaged shard may be all that tells the keys of its rows
    done += _restore_headers(folder, header) + _restore_keys(folder, header, report)
    done += _take_away_damaged(folder, header, report)
    sync_folder(folder)
    return report, done


def drop_extension(path: StrPath) -> list[str]:
    """Take the last extension back; returns the names of the files removed: shards, index, keys and header.

    All from before stays as it is. The header goes last, so that this may be called again after a fault on the way.
    Raises StoreError where there is no extension, the header before it is not sound, or somebody is at work.
    """
    folder = Path(path)
    header = read_header(folder)
    number = len(header.earlier)
    if not number:
        raise StoreError(f"{folder}: expected an extended store, found one without extensions; there is none to drop")
    before = header.before(-1)
    read_header(folder, number - 1).require(before, folder / header_name(number - 1))
    _refuse_while_at_work(folder, header)
    shards = [shard_name(shard) for shard in present_shards(folder, header) if shard >= before.sharding.shards]
    names = [name for name in (*shards, INDEX_FILE, keys_name(number)) if (folder / name).exists()]
    for name in names:
        (folder / name).unlink()
    sync_folder(folder)
    (folder / header_name(number)).unlink()
    sync_folder(folder)
    return [*names, header_name(number)]


def _discard_silent(folder: Path) -> list[Path]:
    """Remove and return what somebody left who is silent, perhaps on another machine, where the file is complete."""
    removed = []
    for file in sorted(folder.iterdir()):
        parts = split_temporary(file.name)
        with contextlib.suppress(FileNotFoundError):  # ended since
            if parts and (folder / parts.target).is_file() and time.time() - file.stat().st_mtime > ALIVE_S:
                file.unlink()
                removed.append(file)
    return removed


def _restore_headers(folder: Path, header: Header) -> list[str]:
    """Write headers from before an extension again, which the last one tells."""
    done = []
    for number in range(len(header.earlier)):
        file, before = folder / header_name(number), header.before(number)
        stored = _stored_header(folder, number)
        if stored is not None and stored.content_digest == before.content_digest:
            continue
        if os.path.lexists(file):
            done.append(_take_away(file, whole=stored is not None))
        write_header(folder, before)
        done.append(f"{file.name}: written again")
    return done


def _stored_header(folder: Path, number: int) -> Header | None:
    try:
        return read_header(folder, number)
    except StoreError:
        return None


def _restore_keys(folder: Path, header: Header, report: VerifyReport) -> list[str]:
    """Write again what an extension keeps of the keys before it, where the shards still tell them."""
    done = []
    for number in range(1, len(header.earlier) + 1):
        name = keys_name(number)
        extended = header.before(number) if number < len(header.earlier) else header
        if not any(name in problem.message for problem in report.problems):
            continue
        with contextlib.suppress(StoreError):  # of a shard that is worse than its keys
            labels = stored_labels(folder, extended.before(-1))
            if list_digest(list(labels), list(labels.values())) == extended.earlier[-1][1]:
                write_keys(folder, extended, list(labels))
                done.append(f"{name}: written again")
    return done


def _take_away_damaged(folder: Path, header: Header, report: VerifyReport) -> list[str]:
    done = []
    for shard in sorted({problem.shard for problem in report.problems if problem.shard is not None}):
        file = folder / shard_name(shard)
        if file.is_file() and check_shard(file, header, shard):  # it may have been replaced since
            done.append(_take_away(file, whole=has_checksum(file)))
    index = folder / INDEX_FILE
    if index.is_file() and (done or any(problem.message.startswith(INDEX_FILE) for problem in report.problems)):
        index.unlink()
        done.append(f"{INDEX_FILE}: out of date, removed; `tokenmix index` writes it again")
    head = folder / HEAD_FILE
    if head.exists() and any(problem.message.startswith(HEAD_FILE) for problem in report.problems):
        done.append(_take_away(head, whole=has_checksum(head)))
    return done


def _take_away(file: Path, *, whole: bool) -> str:
    if not whole:
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
