"""Rows read from all shards at once: through one mapping, or by h5py where a shard cannot be mapped."""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
import numpy.typing as npt

from store.errors import ShardError
from store.format.shard import open_hdf5, remedy
from store.format.sharding import Rows, Sharding
from store.spec import Field

Array = npt.NDArray[Any]
_MAP_FIXED = 0x10  # the same on Linux and macOS; the mmap module has it from Python 3.13 on only

_WHOSE: int = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)
_LEAST_ANNOUNCED, _MOST_ANNOUNCED = 8, 1024


@dataclass(frozen=True)
class Place:
    """Where a dataset lies in a shard file: its offset in bytes, or None when it is not contiguous."""

    path: Path
    offset: int | None


class RowReader(Protocol):
    """Reads rows of one dataset of the store."""

    def take(self, rows: Rows) -> Array:
        """Rows [B] -> [B, ...], a copy; IndexError outside the store."""

    def one(self, row: int) -> Array:
        """One row, a copy; IndexError outside the store."""


def place_of(path: Path, file: h5py.File, field: Field) -> Place:
    """The place of a dataset; ShardError when the file is shorter than it says."""
    dataset = h5py.h5d.open(file.id, field.name.encode())
    offset = dataset.get_offset()
    if offset is None:
        return Place(path, None)
    end, size = offset + dataset.get_storage_size(), path.stat().st_size
    if end > size:
        raise ShardError(f"{path}: expected at least {end} bytes, found {size}; run `tokenmix extract` again")
    return Place(path, offset)


def open_rows(places: Sequence[Place], sharding: Sharding, field: Field, *, random: bool) -> RowReader:
    """A reader over all shards, in order: mapped where that is possible for every shard.

    `random`: the store does not fit into memory, so read no more from the disk than the pages asked for. Otherwise the
    system reads ahead, which fills the page cache ten times sooner.
    """
    offsets = [place.offset for place in places if place.offset is not None]
    step = math.gcd(_row_nbytes(field), mmap.ALLOCATIONGRANULARITY)
    if len(offsets) < len(places) or any(offset % step for offset in offsets):
        return IndexedRows([place.path for place in places], sharding, field)
    mapped = MappedRows([place.path for place in places], offsets, sharding, field)
    if random:
        mapped.expect_random()
    return mapped


class MappedRows:
    """All shards in one range of addresses, each a whole number of rows from its start.

    So a batch is one `take`, and the memory is the page cache, which all processes of a machine share. What is not in
    it comes sooner when a batch is announced, but that costs more than to copy what is. So the first batches are
    announced, then one is tried without; if it had to wait for the disk, more and more are announced between trials.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        offsets: Sequence[int],
        sharding: Sharding,
        field: Field,
        page: int = mmap.ALLOCATIONGRANULARITY,
    ) -> None:
        """Map every shard from its offset; ShardError when the system refuses."""
        row_nbytes = _row_nbytes(field)
        begins, end = _arrange(offsets, sharding, row_nbytes, page)
        try:
            self._region = mmap.mmap(-1, end, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
            flat = np.frombuffer(self._region, dtype=field.dtype)
            for shard, (path, offset) in enumerate(zip(paths, offsets, strict=True)):
                start, stop = sharding.bounds(shard)
                lead = offset % page
                nbytes = lead + (stop - start) * row_nbytes
                _map_fixed(flat.ctypes.data + begins[shard] - lead, nbytes, path, offset - lead)
        except (OSError, ValueError) as error:
            raise ShardError(
                f"{paths[0].parent}: cannot be mapped: {error}; {remedy(error, 'raise the limits')}"
            ) from error
        self._flat = flat.reshape(-1, *field.shape)
        self._sharding, self._rows = sharding, sharding.rows
        self._shard_rows = 0 if sharding.earlier else sharding.shard_rows  # 0: parts, where `one` must ask
        self._row_nbytes = row_nbytes
        self._to_announce = self._last_run = _LEAST_ANNOUNCED
        # by shard, how many rows further on than in the store its rows lie here
        self._shifts = [begin // row_nbytes - sharding.bounds(shard)[0] for shard, begin in enumerate(begins)]
        self._shift_of = np.array(self._shifts, dtype=np.int64)

    def expect_random(self) -> None:
        """Turn read-ahead off."""
        self._region.madvise(mmap.MADV_RANDOM)

    def take(self, rows: Rows) -> Array:
        """Rows [B] -> [B, ...]."""
        shards, _ = self._sharding.locate(rows)
        places = rows + self._shift_of[shards]
        if self._to_announce > 0:
            self._to_announce -= 1
            self._announce(places)
            return np.take(self._flat, places, axis=0)
        before = _major_faults()
        found = np.take(self._flat, places, axis=0)
        if _major_faults() == before:
            self._last_run = _LEAST_ANNOUNCED
        else:
            self._to_announce = self._last_run = min(2 * self._last_run, _MOST_ANNOUNCED)
        return found

    def one(self, row: int) -> Array:
        """One row."""
        if not 0 <= row < self._rows:
            raise IndexError(f"row {row}: expected 0 <= row < {self._rows}")
        shard = row // self._shard_rows if self._shard_rows else self._sharding.shard_of(row)
        found: Array = self._flat[row + self._shifts[shard]].copy()
        return found

    def _announce(self, places: Rows) -> None:
        """Have a batch fetched from the disk as a whole, and not page by page as the copy meets them."""
        begins = places * self._row_nbytes
        pages = begins - begins % mmap.PAGESIZE
        for page, nbytes in zip(pages.tolist(), (begins - pages + self._row_nbytes).tolist(), strict=True):
            self._region.madvise(mmap.MADV_WILLNEED, page, nbytes)


def _major_faults() -> int:
    """How often this thread, where the system tells, has had to wait for the disk."""
    return resource.getrusage(_WHOSE).ru_majflt


class IndexedRows:
    """The slow way, for chunked or compressed shards; files are opened per call, so a fork shares nothing."""

    def __init__(self, paths: Sequence[Path], sharding: Sharding, field: Field) -> None:
        """Remember the files."""
        self._paths, self._sharding, self._field = paths, sharding, field

    def take(self, rows: Rows) -> Array:
        """Rows [B] -> [B, ...]."""
        shards, at = self._sharding.locate(rows)
        result = np.empty((len(rows), *self._field.shape), dtype=self._field.dtype)
        for shard in np.unique(shards).tolist():
            here = np.flatnonzero(shards == shard)
            wanted, back = np.unique(at[here], return_inverse=True)  # h5py wants ascending indices, once each
            with open_hdf5(self._paths[shard]) as file:
                result[here] = file[self._field.name][wanted][back]
        return result

    def one(self, row: int) -> Array:
        """One row."""
        return np.asarray(self.take(np.array([row], dtype=np.int64))[0])


def _row_nbytes(field: Field) -> int:
    return field.dtype.itemsize * math.prod(field.shape)


def _arrange(offsets: Sequence[int], sharding: Sharding, row_nbytes: int, page: int) -> tuple[list[int], int]:
    """Where each shard begins in the range, in bytes, and the range's size.

    A begin must be a multiple of the row, for `take`, and congruent to the file offset modulo the page, for mmap.
    """
    unit = math.lcm(page, row_nbytes)
    begins, end = [], 0
    for shard, offset in enumerate(offsets):
        start, stop = sharding.bounds(shard)
        begins.append(end + _congruent_multiple(row_nbytes, offset, page))
        end = -(-(begins[-1] + (stop - start) * row_nbytes) // unit) * unit
    return begins, end


def _congruent_multiple(step: int, offset: int, page: int) -> int:
    """The smallest multiple of `step` that is congruent to `offset` modulo `page`."""
    common = math.gcd(step, page)
    return step * (offset // common * pow(step // common, -1, page // common) % (page // common))


@cache
def _system_mmap() -> Callable[..., int]:
    """mmap(2) itself: Python's cannot choose the address."""
    call = ctypes.CDLL(None, use_errno=True).mmap
    call.restype = ctypes.c_void_p
    call.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    return call


def _map_fixed(address: int, nbytes: int, path: Path, offset: int) -> None:
    """Put a part of a file at an address inside a region of ours, which the region's end unmaps with it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        found = _system_mmap()(address, nbytes, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED, handle, offset)
    finally:
        os.close(handle)
    if found != address:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(path))
