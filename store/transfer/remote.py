"""Places that a store is pushed to and pulled from, by fsspec: one folder or prefix, and the files directly in it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from store.errors import StoreError, TransferError
from store.folder.files import copy_whole, write_whole
from store.folder.urls import without_secrets
from store.transfer.manifest import header_number

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

UNKNOWN_NBYTES = -1  # of a file that is there
THREADS = 8  # files that travel at the same time: most of what a small file costs is waiting
_T = TypeVar("_T")
_R = TypeVar("_R")


class Sent(NamedTuple):
    """A file to send: its name there, and the file here or its content."""

    name: str
    source: Path | bytes


class Remote:
    """Whatever fsspec knows; a file appears whole, as objects do. Errors are TransferErrors that name the URL."""

    def __init__(self, url: str, fs: AbstractFileSystem, root: str) -> None:
        """`root`: the folder or prefix, as `fs` spells it."""
        self.url, self.fs, self.root = url, fs, root.rstrip("/") or root

    def sizes(self) -> dict[str, int]:
        """File name -> length, perhaps UNKNOWN_NBYTES, of all files; empty where there is no such folder."""
        with remote_errors(self.url):
            self.fs.invalidate_cache()  # what was listed earlier may have changed
            try:
                entries = self.fs.ls(self.root, detail=True)
            except FileNotFoundError:
                return {}
        return {_name(entry): _nbytes(entry) for entry in entries if entry["type"] == "file"}

    def read(self, name: str, start: int = 0) -> bytes:
        """A small file, or the end of a file. A start that counts from the end is not known to every protocol."""
        with remote_errors(self._at(name)):
            found: bytes = self.fs.cat_file(self._path(name), start=start or None)
            return found

    def quietly(self) -> AbstractContextManager[None]:
        """While files are fetched: without what the service's package would show."""
        return nullcontext()

    def fetch(self, name: str, target: Path) -> None:
        """Copy a file to `target`, which is overwritten."""
        with remote_errors(self._at(name)):
            self.fs.get_file(self._path(name), str(target))

    def send(self, sent: Sent) -> None:
        """Put a file in its place."""
        with remote_errors(self._at(sent.name)):
            if isinstance(sent.source, bytes):
                self.fs.pipe_file(self._path(sent.name), sent.source)
            else:
                self.fs.put_file(str(sent.source), self._path(sent.name))

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def _at(self, name: str) -> str:
        return f"{self.url}/{name}"


class FolderRemote(Remote):
    """A folder of this machine: a file appears under its name when all of it is on the disk."""

    @property
    def folder(self) -> Path:
        """Its path."""
        return Path(self.root)

    def sizes(self) -> dict[str, int]:
        """Of links, what they lead to; one that leads nowhere is a file, too, as it must not be replaced unseen."""
        with remote_errors(self.url):
            try:
                entries = list(os.scandir(self.root))
            except FileNotFoundError:
                return {}
            sizes = {entry.name: _local_nbytes(entry) for entry in entries}
            return {name: nbytes for name, nbytes in sizes.items() if nbytes is not None}

    def send(self, sent: Sent) -> None:
        """Copy beside the place, then rename."""
        with remote_errors(self._at(sent.name)):
            self.folder.mkdir(parents=True, exist_ok=True)
            target = self.folder / sent.name
            if isinstance(sent.source, bytes):
                write_whole(target, sent.source)
            else:
                copy_whole(sent.source, target)


def in_parallel(call: Callable[[_T], _R], items: Sequence[_T]) -> Iterator[_R]:
    """The results in order, a few calls at a time; after the first error no more are begun."""
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            yield from pool.map(call, items)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def travel(
    names: Sequence[str], move: Callable[[str], object], on_moved: Callable[[str], object],
    before_headers: Callable[[], object] = lambda: None,
) -> None:  # fmt: skip
    """Move files, headers last and one by one, so that there is no store without its shards at any moment."""
    shards = [name for name in names if header_number(name) is None]
    for name, _ in zip(shards, in_parallel(move, shards), strict=True):
        on_moved(name)
    before_headers()
    for name in names:
        if header_number(name) is not None:
            move(name)
            on_moved(name)


@contextmanager
def remote_errors(where: str) -> Iterator[None]:
    """Whatever a service's package raises, as a TransferError; a full disk stays an OSError.

    Each has types of its own, and they are known only where it is installed: all are caught here and nowhere else.
    """
    try:
        yield
    except StoreError:
        raise
    except ImportError as error:
        raise StoreError(
            f"{where}: expected the package for this protocol, found {error}; run `pip install 'tokenmix-maps[share]'`"
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        expected, remedy = _explain(error)
        found = without_secrets(" ".join(f"{type(error).__name__}: {error}".split()))
        raise TransferError(f"{where}: expected {expected}, found {found}; {remedy}") from error


def _explain(error: Exception) -> tuple[str, str]:
    """What was expected where this was raised, and what to do."""
    response = getattr(error, "response", None)  # of an HTTP client's errors, of which aiohttp's have a status
    status = getattr(response, "status_code", getattr(error, "status", None))
    if isinstance(error, PermissionError) and error.filename is not None:  # of this machine: services name no file
        return "the permission", "change that of this file or folder, or give another place"
    if isinstance(error, PermissionError) or status in (401, 403):
        return "the permission", "log in (`hf auth login`, `aws configure`), or ask the owner for access"
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError) or status == 404:
        return "an existing place", "check the URL; a bucket must be there before anything is pushed to it"
    if status in (409, 412):
        return "that nobody changed the place meanwhile", "run again"
    read_only = isinstance(error, OSError) and error.errno == errno.EROFS
    if read_only or isinstance(error, NotImplementedError | FileExistsError):
        return "a place that can be written to", "give another URL"
    if isinstance(error.__cause__, Exception):
        return _explain(error.__cause__)
    return "an answer", "check the network and run again: files that have arrived are kept"


def _name(entry: Mapping[str, str]) -> str:
    return os.path.basename(entry["name"].rstrip("/"))


def _nbytes(entry: Mapping[str, int | None]) -> int:
    size = entry["size"]
    return UNKNOWN_NBYTES if size is None else int(size)


def _local_nbytes(entry: os.DirEntry[str]) -> int | None:
    """None for what is no file."""
    try:
        found = entry.stat()
    except OSError:
        return UNKNOWN_NBYTES
    return found.st_size if stat.S_ISREG(found.st_mode) else None
