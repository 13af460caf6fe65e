"""Rows read from all shards at once, through one mapping of all their files."""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import resource
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from store.errors import ShardError
from store.format.shard import remedy
from store.format.sharding import Rows, Sharding
from store.spec import Field

Array = npt.NDArray[Any]
_MAP_FIXED = 0x10  # the same on Linux and macOS; the mmap module has it from Python 3.13 on only
_PAGE_NBYTES = mmap.ALLOCATIONGRANULARITY
_WHOSE: int = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)
_LEAST_ANNOUNCED, _MOST_ANNOUNCED = 8, 1024


class MappedRows:
    """All shards in one range of addresses, each a whole number of rows from its start.

    So a batch is one `take`, and the memory is the page cache, which all processes of a machine share. Announcing a
    batch (madvise) makes reading from the disk faster, but costs more than copying rows that are in memory. So the
    first batches are announced, then one is tried without; if it had to wait for the disk, twice as many as before are
    announced until the next trial.
    """

    def __init__(self, paths: Sequence[Path], offsets: Sequence[int], sharding: Sharding, field: Field) -> None:
        """Map every shard from its offset; ShardError when the system refuses."""
        row_nbytes = nbytes_of_row(field)
        begins, end = _arrange(offsets, sharding, row_nbytes)
        try:
            self._region = mmap.mmap(-1, end, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
            flat = np.frombuffer(self._region, dtype=field.dtype)
            for shard, (path, offset) in enumerate(zip(paths, offsets, strict=True)):
                start, stop = sharding.bounds(shard)
                lead = offset % _PAGE_NBYTES
                nbytes = lead + (stop - start) * row_nbytes
                _map_fixed(flat.ctypes.data + begins[shard] - lead, nbytes, path, offset - lead)
        except (OSError, ValueError) as error:
            raise ShardError(
                f"{paths[0].parent}: cannot be mapped: {error}; {remedy(error, 'raise the limits')}"
            ) from error
        self._flat = flat.reshape(-1, *field.shape)
        self._sharding = sharding
        self._row_nbytes = row_nbytes
        self._to_announce = self._last_run = _LEAST_ANNOUNCED
        # by shard, how many rows further on than in the store its rows lie here
        shifts = [begin // row_nbytes - sharding.bounds(shard)[0] for shard, begin in enumerate(begins)]
        self._shift_of = np.array(shifts, dtype=np.int64)

    def expect_random(self) -> None:
        """Turn read-ahead off."""
        self._region.madvise(mmap.MADV_RANDOM)

    def take(self, rows: Rows) -> Array:
        """Rows [B] -> [B, ...], a copy; IndexError outside the store."""
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

    def _announce(self, places: Rows) -> None:
        """Ask the system to fetch the pages of a batch from the disk at once, before the copy needs them one by one."""
        begins = places * self._row_nbytes
        pages = begins - begins % mmap.PAGESIZE
        for page, nbytes in zip(pages.tolist(), (begins - pages + self._row_nbytes).tolist(), strict=True):
            self._region.madvise(mmap.MADV_WILLNEED, page, nbytes)


def _major_faults() -> int:
    """How often this thread, where the system tells, has had to wait for the disk."""
    return resource.getrusage(_WHOSE).ru_majflt


def nbytes_of_row(field: Field) -> int:
    """Bytes of one row of a dataset."""
    return field.dtype.itemsize * math.prod(field.shape)


def _arrange(offsets: Sequence[int], sharding: Sharding, row_nbytes: int) -> tuple[list[int], int]:
    """Where each shard begins in the range, in bytes, and the range's size.

    A begin must be a multiple of the row, for `take`, and congruent to the file offset modulo the page, for mmap.
    """
    unit = math.lcm(_PAGE_NBYTES, row_nbytes)
    begins, end = [], 0
    for shard, offset in enumerate(offsets):
        start, stop = sharding.bounds(shard)
        begins.append(end + _congruent_multiple(row_nbytes, offset, _PAGE_NBYTES))
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
    """Map a part of a file at an address inside our own region; it is unmapped together with the region."""
    handle = os.open(path, os.O_RDONLY)
    try:
        found = _system_mmap()(address, nbytes, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED, handle, offset)
    finally:
        os.close(handle)
    if found != address:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(path))
