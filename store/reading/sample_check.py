"""A few rows of every shard are checked when a store is opened: maps that were shuffled or swapped fail at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from store.errors import ShardError
from store.format.header import Header
from store.format.table import Table, row_digests, row_nbytes
from store.spec import DIGEST, TEXTS

MAX_SAMPLED_SHARDS = 512
MIN_ROWS = 256  # in all, where there are so many
MAX_NBYTES = 1 << 26


class SampleCheck:
    """Digests of a run of rows in each shard, of up to MAX_SAMPLED_SHARDS shards.

    `rows`: row -> key and label of those. Which rows they are is drawn by a generator seeded with the store's digest,
    so every process checks the same.
    """

    def __init__(self, header: Header) -> None:
        """Choose the shards."""
        self._header, self._rng = header, np.random.default_rng(int(header.content_digest[:16], 16))
        most = max(1, min(MAX_SAMPLED_SHARDS, MAX_NBYTES // row_nbytes(header)))
        self.shards = frozenset(self._rng.permutation(header.sharding.shards)[:most].tolist())
        self.rows: dict[int, tuple[str, int]] = {}

    def check(self, file: h5py.File, path: Path, shard: int) -> None:
        """Check an open shard; ShardError for a row whose map, label, view or key is not what was written there."""
        begin, end = self._header.sharding.bounds(shard)
        count = min(end - begin, -(-MIN_ROWS // self._header.sharding.shards))
        at = int(self._rng.integers(end - begin - count + 1))
        table = _read_rows(file, path, self._header, at, at + count)
        _require_digests(path, self._header, begin + at, table)
        keys = [key.decode("utf-8", "replace") for key in table["key"].tolist()]
        rows = range(begin + at, begin + at + count)
        self.rows |= zip(rows, zip(keys, table["label"].tolist(), strict=True), strict=True)


def _require_digests(path: Path, header: Header, start: int, table: Table) -> None:
    wrong = np.flatnonzero(row_digests(header, table) != table[DIGEST.name]).tolist()
    if wrong:
        row, key = start + wrong[0], table["key"].tolist()[wrong[0]].decode("utf-8", "replace")
        raise ShardError(
            f"{path}: row {row}, key {key!r}: expected the map, label, view and key that were written together, found "
            "others; run `tokenmix verify` to see how many, and `tokenmix extract` again for the shards that it names"
        )


def _read_rows(file: h5py.File, path: Path, header: Header, start: int, stop: int) -> Table:
    """Rows [start, stop) of every dataset; by `pread` where they are contiguous, which is faster than h5py."""
    names = (*(field.name for field in header.datasets), *TEXTS)
    handle = os.open(path, os.O_RDONLY)
    try:
        return {name: _read_slice(file, handle, name, start, stop) for name in names}
    finally:
        os.close(handle)


def _read_slice(file: h5py.File, handle: int, name: str, start: int, stop: int) -> npt.NDArray[Any]:
    dataset = h5py.h5d.open(file.id, name.encode())
    place, dtype, shape = dataset.get_offset(), dataset.dtype, dataset.shape[1:]
    if place is None:
        found: npt.NDArray[Any] = file[name][start:stop]
        return found
    row_nbytes_ = dtype.itemsize * int(np.prod(shape))
    raw = os.pread(handle, (stop - start) * row_nbytes_, place + start * row_nbytes_)
    return np.frombuffer(raw, dtype.base).reshape(stop - start, *shape)
