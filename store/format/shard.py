"""One shard as HDF5: its bytes, and how it is opened, checked and read."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from store.errors import ShardError
from store.format.checksum import with_checksum
from store.format.header import Header
from store.format.table import Table
from store.spec import ALIGNMENT, FORMAT_NAME, FORMAT_VERSION, LIBVER, MAPPED_COLUMN, TEXTS, Field

Attributes = dict[str, str | int]
Described = tuple[np.dtype[Any], tuple[int, ...]]


def shard_bytes(header: Header, shard: int, table: Table) -> memoryview:
    """The bytes of a shard; the same rows give the same bytes, whatever the machine or the time.

    Assembled in memory, because HDF5 that meets a full disk keeps the file open and crashes at exit.
    """
    buffer = io.BytesIO()
    mapped = [*(field.name for field in header.payload), MAPPED_COLUMN]
    smallest = min(table[name].nbytes for name in mapped)
    with h5py.File(
        buffer, "w", libver=LIBVER, alignment_threshold=smallest, alignment_interval=ALIGNMENT, meta_block_size=8192
    ) as file:
        for name in (*mapped, *sorted(table.keys() - set(mapped))):
            _create(file, name, table[name])
        for name, value in attributes(header, shard).items():
            file.attrs[name] = np.bytes_(value) if isinstance(value, str) else np.int64(value)
    return with_checksum(buffer)


@contextmanager
def open_shard(path: Path, header: Header, shard: int, datasets: Collection[str] = ()) -> Iterator[h5py.File]:
    """The shard, its attributes and the dtype and shape of `datasets` (default: all) checked.

    Raises ShardError for the first that is wrong.
    """
    start, stop = header.sharding.bounds(shard)
    with open_hdf5(path) as file:
        for name, expected in attributes(header, shard).items():
            found = _attribute(file, name)
            if found != expected:
                raise ShardError(f"{path}: attribute {name}: expected {expected!r}, found {found!r}; {_REMEDY}")
        for field in header.datasets:
            if not datasets or field.name in datasets:
                _check_dataset(path, file, field, stop - start)
        for name, most in TEXTS.items():
            if not datasets or name in datasets:
                _check_text(path, file, name, stop - start, most)
        yield file


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open for reading without locks, which do not hold on network file systems; ShardError if it cannot be."""
    if path.exists() and not path.is_file():
        raise ShardError(f"{path}: expected a file, found something else; {_REMEDY}")
    try:
        file = h5py.File(path, "r", locking=False)
    except (OSError, RuntimeError) as error:
        raise ShardError(
            f"{path}: expected a complete HDF5 file, found {_brief(error)}; {remedy(error, _REMEDY)}"
        ) from error
    try:
        yield file
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise ShardError(
            f"{path}: expected readable datasets, found {_brief(error)}; {remedy(error, _REMEDY)}"
        ) from error
    finally:
        file.close()


def remedy(error: Exception, otherwise: str) -> str:
    """What to do: where the file system failed, the shard may be sound and must not be removed."""
    if is_file_system_failure(error):
        return "the file system failed, not the shard: check the mount and the permissions"
    return otherwise


def is_file_system_failure(error: BaseException | None) -> bool:
    """Whether the system could not read a file that may be sound."""
    return isinstance(error, OSError) and error.errno not in (None, errno.ENOENT, errno.ENOMEM)


def read_table(file: h5py.File, header: Header) -> Table:
    """All datasets of an open shard."""
    return {name: file[name][()] for name in (*(field.name for field in header.datasets), *TEXTS)}


_REMEDY = "remove this file and run `tokenmix extract` again"


def attributes(header: Header, shard: int) -> Attributes:
    """The attributes of the root group."""
    start, stop = header.sharding.bounds(shard)
    return {
        "format": FORMAT_NAME,
        "version": FORMAT_VERSION,
        "content_digest": header.digest_of(shard),
        "shard": shard,
        "row_start": start,
        "rows": stop - start,
    }


def _create(file: h5py.File, name: str, array: np.ndarray[Any, Any]) -> None:
    """A contiguous dataset; texts are marked as UTF-8, nothing carries a time."""
    dtype = array.dtype
    if dtype.kind == "S":
        dtype = h5py.string_dtype("utf-8", dtype.itemsize)
    file.create_dataset(name, data=array.astype(dtype), dtype=dtype, track_times=False)


def _attribute(file: h5py.File, name: str) -> str | int | None:
    """A text or a whole number as such, anything else as text that equals neither."""
    value = file.attrs.get(name)
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, np.integer):
        return int(value)
    return value if value is None or isinstance(value, str) else repr(value)


def _check_dataset(path: Path, file: h5py.File, field: Field, n: int) -> None:
    expected = (field.dtype, (n, *field.shape))
    found = _described(file, field.name)
    if found != expected:
        raise _wrong_dataset(path, field.name, str(field.dtype), expected[1], found)


def _check_text(path: Path, file: h5py.File, name: str, n: int, most: int) -> None:
    found = _described(file, name)
    if found is None or found[0].kind != "S" or found[0].itemsize > most or found[1] != (n,):
        raise _wrong_dataset(path, name, f"text of at most {most} bytes", (n,), found)


def _described(file: h5py.File, name: str) -> Described | None:
    """Its dtype and shape; None where there is no such dataset, or its data lie in another file.

    By h5py's lower layer, as most of the time of opening a store is spent here.
    """
    try:
        if file.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
            return None
        dataset = h5py.h5d.open(file.id, name.encode())
    except (KeyError, RuntimeError):
        return None
    if dataset.get_offset() is None:
        created = dataset.get_create_plist()
        if created.get_layout() == h5py.h5d.VIRTUAL or created.get_external_count():
            return None
    return dataset.dtype, dataset.shape


def _wrong_dataset(path: Path, name: str, what: str, shape: tuple[int, ...], found: Described | None) -> ShardError:
    described = "none" if found is None else f"{found[0]} {list(found[1])}"
    return ShardError(f"{path}: dataset {name}: expected {what} {list(shape)}, found {described}; {_REMEDY}")


def _brief(error: Exception) -> str:
    """What the system says, or the first of HDF5's lines."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error).splitlines()[0] if str(error) else type(error).__name__
