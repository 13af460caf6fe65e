"""The files of all shards of a store, those of an unfinished one included: columns, and where datasets lie in them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from store.folder.files import present_shards, require_all_shards
from store.format.header import Header
from store.format.shard import open_shard
from store.reading.row_readers import DatasetOffset, offset_of
from store.reading.sample_check import SampleCheck
from store.spec import COLUMNS, OPTIONAL_COLUMNS, Field, shard_name

Array = npt.NDArray[Any]
# What a column holds for rows whose shard is not there yet: no number that means anything; zeros in other columns.
_NOT_YET = {"label": -1, "prediction": -1, "status": 255}


class ShardFiles:
    """One file for each shard of the header, in order; those in `_missing` are not there."""

    def __init__(self, folder: Path, header: Header, *, unfinished: bool) -> None:
        """Look which are there; ShardError where one is missing, unless `unfinished` allows it."""
        self._header = header
        if unfinished:
            self._files = [folder / shard_name(shard) for shard in range(header.sharding.shards)]
            self._missing = set(range(header.sharding.shards)) - set(present_shards(folder, header))
        else:
            self._files, self._missing = require_all_shards(folder, header), set()

    def column(self, name: str) -> Array:
        """A dataset of all shards, [N, ...], where N is the number of rows of the header."""
        return np.concatenate([self._column_of(shard, name) for shard in range(len(self._files))])

    def finished_rows(self) -> npt.NDArray[np.bool_]:
        """Which rows are in shards that are there, [N]."""
        found = np.ones(self._header.rows, np.bool_)
        for shard in self._missing:
            found[slice(*self._header.sharding.bounds(shard))] = False
        return found

    def places(self, fields: Sequence[Field], sample: SampleCheck | None) -> list[list[DatasetOffset]]:
        """For each field where it lies in every file, while `sample` looks at some rows of each.

        In a file that is missing it lies nowhere, so that h5py reads the rows of the others.
        """
        places: list[list[DatasetOffset]] = [[] for _ in fields]
        for shard, path in enumerate(self._files):
            if shard in self._missing:
                for found in places:
                    found.append(DatasetOffset(path, None))
                continue
            sampled = sample is not None and shard in sample.shards
            with open_shard(path, self._header, shard, () if sampled else [field.name for field in fields]) as file:
                for found, field in zip(places, fields, strict=True):
                    found.append(offset_of(path, file, field))
                if sample is not None and sampled:
                    sample.check(file, path, shard)
        return places

    def exceed_memory(self) -> bool:
        """Whether they are too large to stay in the page cache as a whole."""
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return sum(file.stat().st_size for file in self._present()) > memory / 2

    def read_through(self) -> None:
        """Bring whole files into the page cache; in order, which is what disks and network file systems like."""
        buffer = bytearray(1 << 22)
        for file in self._present():
            with open(file, "rb", buffering=0) as stream:
                while stream.readinto(buffer):
                    pass

    def _present(self) -> list[Path]:
        return [file for shard, file in enumerate(self._files) if shard not in self._missing]

    def _column_of(self, shard: int, name: str) -> Array:
        if shard in self._missing:
            start, stop = self._header.sharding.bounds(shard)
            return _not_yet(name, stop - start)
        with open_shard(self._files[shard], self._header, shard, [name]) as file:
            found: Array = file[name][()]
        return found


def _not_yet(name: str, rows: int) -> Array:
    """A column of so many rows whose shard is missing."""
    field = next((column for column in (*COLUMNS, *OPTIONAL_COLUMNS) if column.name == name), None)
    if field is None:  # a text
        return np.zeros(rows, "S1")
    return np.full((rows, *field.shape), _NOT_YET.get(name, 0), field.dtype)
