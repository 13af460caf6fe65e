"""Rows read from all shards at once: through one mapping, or by h5py where a shard cannot be mapped."""

from __future__ import annotations

import ctypes
import math
import mmap
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
import numpy.typing as npt

from store.errors import ShardError
from store.layout import Layout, Rows
from store.shard import open_hdf5
from store.spec import Field

Array = npt.NDArray[Any]
_MAP_FIXED = 0x10  # the same on Linux and macOS; the mmap module has it from Python 3.13 on only


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
        """One row, a copy; the caller has checked the bounds."""


def place_of(path: Path, file: h5py.File, field: Field) -> Place:
    """The place of a dataset; ShardError when the file is shorter than it says."""
    dataset = file[field.name]
    offset = dataset.id.get_offset()
    if offset is None:
        return Place(path, None)
    end, size = offset + dataset.size * dataset.dtype.itemsize, path.stat().st_size
    if end > size:
        raise ShardError(f"{path}: expected at least {end} bytes, found {size}; run `tokenmix extract` again")
    return Place(path, offset)


def open_rows(places: Sequence[Place], layout: Layout, field: Field, *, random: bool) -> RowReader:
    """A reader over all shards, in order: mapped when every shard is contiguous and aligned to pages.

    `random`: read no more from the disk than the pages asked for; otherwise the system reads ahead.
    """
    if all(place.offset is not None and place.offset % mmap.ALLOCATIONGRANULARITY == 0 for place in places):
        mapped = MappedRows(places, layout, field)
        if random:
            mapped.expect_random()
        return mapped
    return IndexedRows(places, layout, field)


class MappedRows:
    """One range of addresses in which every shard has a slot of whole pages and whole rows.

    So a row is one multiplication away from its bytes, a batch is one `take`, and the memory is the page
    cache, which all processes of a machine share.
    """

    def __init__(self, places: Sequence[Place], layout: Layout, field: Field) -> None:
        """Map every shard; ShardError when the system refuses."""
        row_nbytes = field.dtype.itemsize * math.prod(field.shape)
        unit = math.lcm(mmap.ALLOCATIONGRANULARITY, row_nbytes)
        slot = -(-layout.shard_rows * row_nbytes // unit) * unit
        self._layout = layout
        self._slot_rows = slot // row_nbytes
        try:
            self._region = mmap.mmap(
                -1, slot * layout.shards, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ
            )
            flat = np.frombuffer(self._region, dtype=field.dtype)
            for shard, place in enumerate(places):
                start, stop = layout.bounds(shard)
                _map_fixed(flat.ctypes.data + shard * slot, (stop - start) * row_nbytes, place)
        except (OSError, ValueError) as error:
            raise ShardError(f"{places[0].path.parent}: cannot be mapped: {error}; raise the limits") from error
        self._flat = flat.reshape(-1, *field.shape)

    def expect_random(self) -> None:
        """Turn read-ahead off."""
        self._region.madvise(mmap.MADV_RANDOM)

    def take(self, rows: Rows) -> Array:
        """Rows [B] -> [B, ...]."""
        shard, row = self._layout.locate(rows)
        return np.take(self._flat, shard * self._slot_rows + row, axis=0)

    def one(self, row: int) -> Array:
        """One row."""
        shard, at = divmod(row, self._layout.shard_rows)
        found: Array = self._flat[shard * self._slot_rows + at].copy()
        return found


class IndexedRows:
    """The slow way, for chunked or compressed shards; files are opened per call, so a fork shares nothing."""

    def __init__(self, places: Sequence[Place], layout: Layout, field: Field) -> None:
        """Remember the files."""
        self._places, self._layout, self._field = places, layout, field

    def take(self, rows: Rows) -> Array:
        """Rows [B] -> [B, ...]."""
        shards, at = self._layout.locate(rows)
        result = np.empty((len(rows), *self._field.shape), dtype=self._field.dtype)
        for shard in np.unique(shards).tolist():
            here = np.flatnonzero(shards == shard)
            wanted, back = np.unique(at[here], return_inverse=True)  # h5py wants ascending indices, once each
            with open_hdf5(self._places[shard].path) as file:
                result[here] = file[self._field.name][wanted][back]
        return result

    def one(self, row: int) -> Array:
        """One row."""
        return np.asarray(self.take(np.array([row], dtype=np.int64))[0])


@cache
def _system_mmap() -> Callable[..., int]:
    """mmap(2) itself: Python's cannot choose the address."""
    call = ctypes.CDLL(None, use_errno=True).mmap
    call.restype = ctypes.c_void_p
    call.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    return call


def _map_fixed(address: int, nbytes: int, place: Place) -> None:
    """Put a part of a file at an address inside a region of ours, which the region's end unmaps with it."""
    handle = os.open(place.path, os.O_RDONLY)
    try:
        found = _system_mmap()(address, nbytes, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED, handle, place.offset)
    finally:
        os.close(handle)
    if found != address:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(place.path))
