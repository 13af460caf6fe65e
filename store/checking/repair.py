"""Taking out of a store what `verify` finds wrong, so that the job fills it again, or its last extension."""

from __future__ import annotations

import contextlib
import os
import time
from itertools import count
from pathlib import Path

from store.checking.verify import VerifyReport, verify
from store.errors import StoreError
from store.folder.claims import SILENT_S, list_shards
from store.folder.create import read_header, write_header
from store.folder.extension import stored_labels, write_keys
from store.folder.files import StrPath, is_dead, present_shards, split_temporary, sync_folder
from store.format.check_shard import check_shard
from store.format.checksum import has_checksum
from store.format.header import Header
from store.format.rows import list_digest
from store.problems import Cause
from store.spec import header_name, keys_name, shard_name

_BAD_SHARD = (Cause.DAMAGED_SHARD, Cause.CHANGED_SHARD, Cause.DAMAGED_ROW)
_BAD_HEADER = (Cause.MISSING_EARLIER_HEADER, Cause.DAMAGED_EARLIER_HEADER, Cause.FOREIGN_EARLIER_HEADER)


def repair(path: StrPath) -> tuple[VerifyReport, list[str]]:
    """What `verify` finds, and a line on each file that was then removed, set aside or written again.

    A damaged shard or head is removed, and so are temporary files whose writer is dead or, beside the complete file,
    has given no sign of life for SILENT_S. A whole file in the place of another, perhaps the only copy, gets another
    name. Sound shards, the last header and files of other names stay; so does a shard that the file system cannot
    read. Lost headers and keys from before an extension are written again.

    Raises StoreError where there is no readable header, or where a writer is at work.
    """
    folder = Path(path)
    header = read_header(folder)
    _refuse_while_at_work(folder, header)
    report = verify(folder)
    _refuse_while_at_work(folder, header)  # since `verify` may have taken an hour
    done = _remove_leftovers(folder, report)
    # before the shards, as a damaged one may be all that tells the keys of its rows
    done += _restore_headers(folder, header, report) + _restore_keys(folder, header, report)
    done += _take_away_shards(folder, header, report)
    done += [_take_away(folder / name) for name in _files(report, Cause.DAMAGED_HEAD)]
    sync_folder(folder)
    return report, done


def drop_extension(path: StrPath) -> list[str]:
    """Take the last extension back; returns the names of the files removed: shards, keys and header.

    All from before stays as it is. The header goes last, so that this may be called again after a fault on the way.
    Raises StoreError where there is no extension, the header before it is not sound, or a writer is at work.
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
    names = [name for name in (*shards, keys_name(number)) if (folder / name).exists()]
    for name in names:
        (folder / name).unlink()
    sync_folder(folder)
    (folder / header_name(number)).unlink()
    sync_folder(folder)
    return [*names, header_name(number)]


def _files(report: VerifyReport, *causes: Cause) -> list[str]:
    """The files with a problem of one of these causes, each once."""
    return sorted({problem.file for problem in report.problems if problem.cause in causes and problem.file})


def _remove_leftovers(folder: Path, report: VerifyReport) -> list[str]:
    """Remove what dead writers of this machine left, and beside the complete file what silent ones of others left."""
    done = []
    for name in _files(report, Cause.LEFTOVER):
        with contextlib.suppress(FileNotFoundError):  # its writer has ended since
            if is_dead(folder / name) or _is_silent_beside_target(folder / name):
                (folder / name).unlink()
                done.append(f"{name}: left by a dead writer, removed")
    return done


def _is_silent_beside_target(temporary: Path) -> bool:
    parts = split_temporary(temporary.name)
    complete = parts is not None and temporary.with_name(parts.target).is_file()
    return complete and time.time() - temporary.stat().st_mtime > SILENT_S


def _restore_headers(folder: Path, header: Header, report: VerifyReport) -> list[str]:
    """Write headers from before an extension again, which the last one tells."""
    done = []
    for number in range(len(header.earlier)):
        file = folder / header_name(number)
        if file.name not in _files(report, *_BAD_HEADER):
            continue
        if os.path.lexists(file):
            done.append(_take_away(file, whole=file.name in _files(report, Cause.FOREIGN_EARLIER_HEADER)))
        write_header(folder, header.before(number))
        done.append(f"{file.name}: written again")
    return done


def _restore_keys(folder: Path, header: Header, report: VerifyReport) -> list[str]:
    """Write again what an extension keeps of the keys before it, where the shards still tell them."""
    done = []
    for number in range(1, len(header.earlier) + 1):
        name, extended = keys_name(number), header.after(number)
        if name not in _files(report, Cause.WRONG_KEYS):
            continue
        with contextlib.suppress(StoreError):  # of a shard that is damaged itself
            labels = stored_labels(folder, extended.before(-1))
            if list_digest(list(labels), list(labels.values())) == extended.earlier[-1][1]:
                write_keys(folder, extended, list(labels))
                done.append(f"{name}: written again")
    return done


def _take_away_shards(folder: Path, header: Header, report: VerifyReport) -> list[str]:
    done, bad = [], set(_files(report, *_BAD_SHARD))
    for shard in range(header.sharding.shards):
        file = folder / shard_name(shard)
        if file.name in bad and file.is_file() and check_shard(file, header, shard).problems:  # may be replaced since
            done.append(_take_away(file))
    return done


def _take_away(file: Path, *, whole: bool | None = None) -> str:
    """Remove what is damaged; what is whole, by its checksum unless given, or no file at all, gets another name."""
    if file.is_file() and not (has_checksum(file) if whole is None else whole):
        file.unlink()
        return f"{file.name}: damaged, removed"
    names = (file.with_name(f"{file.name}.aside{number or ''}") for number in count())
    aside = next(name for name in names if not name.exists())
    file.rename(aside)
    return f"{file.name}: whole, but not what belongs here; now {aside.name}"


def _refuse_while_at_work(folder: Path, header: Header) -> None:
    claims = list_shards(folder, header).claims
    alive = [claim for claim in claims if not claim.dead and claim.age_s <= SILENT_S]
    if alive:
        raise StoreError(
            f"{folder}: expected no job at work, found {alive[0].host} pid {alive[0].pid} at shard {alive[0].shard}, "
            f"last sign of life {alive[0].age_s:.0f} s ago; stop the job, or repair after its end"
        )
