"""The folder of a store and its header."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from store.errors import StoreError, StoreMismatch
from store.folder.extension import require_own_shards, write_keys
from store.folder.files import (
    StrPath,
    begin_temporary,
    end_temporary,
    is_temporary,
    present_shards,
    sync_folder,
    write_synced,
)
from store.folder.urls import path_of, url_of, without_secrets
from store.format.header import Header
from store.spec import HEADER_FILE, header_name

_LATER_HEADER = re.compile(r"store-([1-9]\d*)\.json")
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EACCES)


def create_store(path: StrPath, header: Header, earlier_keys: Sequence[str] = ()) -> None:
    """Make the folder and its header, extend a store, or check that one is of this very configuration.

    A header with one extension more than the store's is written beside it, which needs the keys of the rows so far.
    Of processes that create or extend at once, one writes the header and the others compare with it. Raises
    StoreMismatch for another configuration, StoreError if `path` is something else.
    """
    if path_of(path) is None:
        shown = without_secrets(str(url_of(path)))
        raise StoreError(f"{shown}: expected a folder to write to, found a URL; push the store when it is made")
    folder = Path(path).absolute()
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise StoreError(f"{folder}: not a store: expected a folder, found a file; give another path") from error
    if not (folder / HEADER_FILE).exists():
        _require_empty(folder)
        for parent in {folder.parent, *(made.parent for made in missing)}:
            sync_folder(parent)  # before the header, whose presence says that this was done
        write_header(folder, header)
    stored = read_header(folder)
    if len(header.earlier) == len(stored.earlier) + 1:
        stored.require(header.before(-1), folder)
        require_own_shards(folder, header)
        write_keys(folder, header, earlier_keys)
        write_header(folder, header)
        stored = read_header(folder)
    try:
        stored.require(header, folder)
    except StoreMismatch as error:
        if present_shards(folder, stored):
            raise
        raise StoreMismatch(f"{error} It holds no shard yet: remove the folder if no job is at work on it.") from error


def read_header(path: StrPath, extensions: int | None = None) -> Header:
    """The header of a store after its last extension, or after so many of them.

    StoreError if there is none, or none that this version can read.
    """
    folder = Path(path)
    if extensions is None:
        extensions = _extensions(folder)
    file = folder / header_name(extensions)
    if os.path.lexists(file) and not file.is_file():
        raise StoreError(f"{file}: expected a file, found something else; restore it from a copy")
    try:
        header = Header.from_json(file.read_bytes().decode("utf-8"))
        if len(header.earlier) != extensions:
            raise StoreError(f"header field earlier: expected {extensions} by the file's name, found {header.earlier}")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise StoreError(f"{path}: not a store: expected {file.name} in it; run `tokenmix extract`") from error
    except UnicodeDecodeError as error:
        raise StoreError(f"{file}: expected UTF-8, found {error}; restore the file from a copy") from error
    except StoreError as error:
        raise StoreError(f"{file}: {error}") from error
    return header


def _extensions(folder: Path) -> int:
    """The highest number of a header, whether or not those before it are there."""
    found = map(_LATER_HEADER.fullmatch, os.listdir(folder) if folder.is_dir() else ())
    listed = max((int(match[1]) for match in found if match), default=0)
    # a network file system may list what was there a while ago
    return next(n for n in count(listed) if not (folder / header_name(n + 1)).exists())


def _require_empty(folder: Path) -> None:
    """A folder with other files is not turned into a store; temporary files of another creator may be there."""
    found = sorted(file.name for file in folder.iterdir() if not is_temporary(file) and file.name != HEADER_FILE)
    if found:
        remedy = "`tokenmix verify --repair` writes it again" if _extensions(folder) else "give another path"
        raise StoreError(
            f"{folder}: not a store: expected {HEADER_FILE} or an empty folder, found {', '.join(found[:3])}; {remedy}"
        )


def write_header(folder: Path, header: Header) -> None:
    """Put the header in its place unless one is there: linking then fails, so exactly one of two creators wins."""
    target = folder / header_name(len(header.earlier))
    temporary = begin_temporary(target)
    try:
        write_synced(temporary, header.to_json().encode("utf-8"))
        try:
            os.link(temporary, target)
        except FileExistsError:
            return
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # Without links the last creator wins; the other's shards carry another content digest.
            os.replace(temporary, target)
        sync_folder(folder)
    finally:
        end_temporary(temporary)
