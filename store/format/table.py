"""Rows as the datasets of a shard: by name, and the digest over each row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from store.format.header import Header
from store.spec import DIGEST

Array = npt.NDArray[Any]
# The datasets of a shard by name; texts are arrays of NUL-padded UTF-8 (dtype "S").
Table = dict[str, Array]


def row_digests(header: Header, table: Table) -> npt.NDArray[np.uint64]:
    """xxh3_64 of every row [B]: payload and columns as they lie, key, and NUL + error where there is one."""
    names = [field.name for field in header.datasets if field is not DIGEST]
    parts = [np.ascontiguousarray(table[name]) for name in names]
    fixed = np.concatenate([part.reshape(len(part), -1).view(np.uint8) for part in parts], axis=1)
    texts = zip(table["key"].tolist(), table["error"].tolist(), strict=True)
    rows = (
        row.tobytes() + key + (b"\0" + error if error else b"") for row, (key, error) in zip(fixed, texts, strict=True)
    )
    return np.fromiter((xxh3_64_intdigest(row) for row in rows), dtype=DIGEST.dtype, count=len(fixed))


def row_nbytes(header: Header) -> int:
    """Bytes of one row on the disk, without its key."""
    return sum(field.dtype.itemsize * math.prod(field.shape) for field in header.datasets)
