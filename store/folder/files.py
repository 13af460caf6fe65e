"""Files in the folder of a store: complete ones by name, temporary ones by host and process."""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from store.errors import ShardError
from store.format.checksum import with_checksum
from store.format.header import Header
from store.spec import shard_name

StrPath = str | os.PathLike[str]
_TEMPORARY = re.compile(
    r"(?P<target>store(?:-\d+)?\.json|store-\d+\.keys|head\.h5|shard-\d{5,}\.h5|manifest\.json|README\.md)"
    r"\.(?P<host>.+)\.(?P<pid>\d+)\.tmp"
)
# Files of this very process that are being written: in a container every run may have the same pid.
_open_here: set[Path] = set()


class Temporary(NamedTuple):
    """The name of a temporary file: what it will become, and whose it is."""

    target: str
    host: str
    pid: int


def present_shards(path: StrPath, header: Header) -> list[int]:
    """Indices of the shards on disk, ascending. The rename is the marker: a shard that has its name is complete."""
    with os.scandir(path) as entries:
        # of links pathlib asks, to which one that leads nowhere is no file, and not an error
        names = {entry.name for entry in entries if entry.is_file(follow_symlinks=False) or Path(entry.path).is_file()}
    return [shard for shard in range(header.sharding.shards) if shard_name(shard) in names]


def require_all_shards(path: StrPath, header: Header) -> list[Path]:
    """The files of all shards, in order; ShardError where one is missing."""
    shards = header.sharding.shards
    missing = sorted(set(range(shards)) - set(present_shards(path, header)))
    if missing:
        named = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
        raise ShardError(
            f"{path}: expected {shards} shards, found {shards - len(missing)}; {len(missing)} missing: {named}; "
            "run `tokenmix extract` again to fill the gaps"
        )
    return [Path(path) / shard_name(shard) for shard in range(shards)]


def discard_leftovers(path: StrPath) -> None:
    """Remove temporary files whose process on this host is dead; others are left alone."""
    for file in Path(path).iterdir():
        if is_dead(file):
            file.unlink(missing_ok=True)


def is_temporary(file: Path) -> bool:
    """Whether the name is that of a file which was never completed."""
    return split_temporary(file.name) is not None


def split_temporary(name: str) -> Temporary | None:
    """The parts of a temporary file's name; None for any other name."""
    match = _TEMPORARY.fullmatch(name)
    return match and Temporary(match["target"], match["host"], int(match["pid"]))


def is_dead(file: Path) -> bool:
    """Whether this is a temporary file whose process, on this host, is no more; of other hosts nothing is known."""
    parts = split_temporary(file.name)
    if parts is None or parts.host != socket.gethostname():
        return False
    if parts.pid == os.getpid():
        return file.absolute() not in _open_here
    try:
        os.kill(parts.pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    return False


def begin_temporary(target: Path) -> Path:
    """Create the empty file that will be renamed to `target`."""
    temporary = target.with_name(f"{target.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    temporary.write_bytes(b"")
    _open_here.add(temporary.absolute())
    return temporary


def complete_temporary(temporary: Path, target: Path) -> None:
    """Give the file its name, and wait until that is on the disk. After a fault on the way it may be called again."""
    os.replace(temporary, target)
    sync_folder(target.parent)
    _open_here.discard(temporary.absolute())


def end_temporary(temporary: Path) -> None:
    """Remove the file unless it was completed."""
    if temporary.absolute() in _open_here:
        _open_here.remove(temporary.absolute())
        temporary.unlink(missing_ok=True)


def write_synced(file: Path, data: bytes | memoryview) -> None:
    """Write a file and wait until it is on the disk; overwrites in place, without removing it first."""
    with open(file, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """Yield an empty file that becomes `target` when the block ends well, and is removed when it does not.

    The block writes it and waits until it is on the disk.
    """
    temporary = begin_temporary(target)
    try:
        yield temporary
        complete_temporary(temporary, target)
    finally:
        end_temporary(temporary)


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file; the copy appears under its name when all of it is on the disk."""
    with whole(target) as temporary:
        shutil.copyfile(source, temporary)
        sync_file(temporary)


def sync_file(file: Path) -> None:
    """Wait until what was written to a file is on the disk."""
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_with_checksum(target: Path, buffer: io.BytesIO) -> None:
    """As `write_whole`, with the checksum at its end."""
    write_whole(target, with_checksum(buffer))


def write_whole(target: Path, data: bytes | memoryview) -> None:
    """Put a finished file in place, whole or not at all."""
    with whole(target) as temporary:
        write_synced(temporary, data)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where its file system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)
