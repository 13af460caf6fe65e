"""Readers of a dataset's rows over all shards: mapped where possible, else by h5py; uint8 maps as numbers."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
import numpy.typing as npt

from store.errors import ShardError
from store.format.quantise import dequantise
from store.format.shard import open_hdf5
from store.format.sharding import Rows, Sharding
from store.reading.mapped import MappedRows, nbytes_of_row
from store.spec import Field

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class DatasetOffset:
    """Where a dataset lies in a shard file: its offset in bytes, or None when it is not contiguous."""

    path: Path
    offset: int | None


class RowReader(Protocol):
    """Reads rows of one dataset of the store."""

    def take(self, rows: Rows) -> Array:
        """Rows [B] -> [B, ...], a copy; IndexError outside the store."""


def offset_of(path: Path, file: h5py.File, field: Field) -> DatasetOffset:
    """Where a dataset lies; ShardError when the file is shorter than it says."""
    dataset = h5py.h5d.open(file.id, field.name.encode())
    offset = dataset.get_offset()
    if offset is None:
        return DatasetOffset(path, None)
    end, size = offset + dataset.get_storage_size(), path.stat().st_size
    if end > size:
        raise ShardError(f"{path}: expected at least {end} bytes, found {size}; run `tokenmix extract` again")
    return DatasetOffset(path, offset)


def open_rows(places: Sequence[DatasetOffset], sharding: Sharding, field: Field, *, random: bool) -> RowReader:
    """A reader over all shards, in order: mapped where that is possible for every shard.

    `random`: the store does not fit into memory, so read no more from the disk than the pages asked for. Otherwise the
    system reads ahead, which fills the page cache ten times sooner.
    """
    offsets = [place.offset for place in places if place.offset is not None]
    step = math.gcd(nbytes_of_row(field), mmap.ALLOCATIONGRANULARITY)
    if len(offsets) < len(places) or any(offset % step for offset in offsets):
        return IndexedRows([place.path for place in places], sharding, field)
    mapped = MappedRows([place.path for place in places], offsets, sharding, field)
    if random:
        mapped.expect_random()
    return mapped


class IndexedRows:
    """By h5py, for chunked or compressed shards; files are opened at every call, so that forks share no file handle."""

    def __init__(self, paths: Sequence[Path], sharding: Sharding, field: Field) -> None:
        """Remember the files."""
        self._paths, self._sharding, self._field = paths, sharding, field

    def take(self, rows: Rows) -> Array:
        """Rows [B] -> [B, ...], a copy; IndexError outside the store."""
        shards, at = self._sharding.locate(rows)
        result = np.empty((len(rows), *self._field.shape), dtype=self._field.dtype)
        for shard in np.unique(shards).tolist():
            here = np.flatnonzero(shards == shard)
            wanted, back = np.unique(at[here], return_inverse=True)  # h5py wants ascending indices, once each
            with open_hdf5(self._paths[shard]) as file:
                result[here] = file[self._field.name][wanted][back]
        return result


class DequantisedRows:
    """Maps of dtype uint8 as float32, a batch at a time."""

    def __init__(self, steps: RowReader, scale_offset: RowReader) -> None:
        """Two readers of rows, of the two datasets."""
        self._steps, self._scale_offset = steps, scale_offset

    def take(self, rows: Rows) -> Array:
        """Rows [B] -> [B, h, w]; IndexError outside the store."""
        return dequantise(self._steps.take(rows), self._scale_offset.take(rows))
