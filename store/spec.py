"""The constants of format version 1: names, kinds and columns. `docs/format.md` is the normative text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

FORMAT_NAME = "tokenmix-maps"
FORMAT_VERSION = 1
HEADER_FILE = "store.json"

STATUS_OK = 0
STATUS_UNREADABLE = 1
STATUSES = (STATUS_OK, STATUS_UNREADABLE)

# Superblock 3 and object header 2: the oldest structures with checksums, so HDF5 1.10 reads them too.
LIBVER = ("v110", "v110")
# File offset of the datasets that are read by mapping, in bytes.
ALIGNMENT = 4096
MAX_KEY_NBYTES = 4096
MAX_ERROR_NBYTES = 512

# Little-endian in the file whatever the machine, so that the bytes can be mapped and hashed as they lie.
DTYPES: Mapping[str, np.dtype[Any]] = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4")}


class Field(NamedTuple):
    """A dataset of n rows: its name, its dtype and the shape of one row."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()


# kind -> its payload datasets, each with the letters of its row shape, in the order of the digest.
KINDS: Mapping[str, tuple[tuple[str, str], ...]] = {"label": (("label_logit", "hw"),)}

# The columns that every kind has, in the order of the digest.
COLUMNS = (
    Field("label", np.dtype("<i4")),
    Field("prediction", np.dtype("<i4")),
    Field("size", np.dtype("<i4"), (2,)),
    Field("view", np.dtype("<f4"), (4,)),
    Field("status", np.dtype("u1")),
)
DIGEST = Field("digest", np.dtype("<u8"))
# UTF-8 of fixed length, padded with NUL: inside the digest, not in HDF5's heap, which has no checksums.
TEXTS: Mapping[str, int] = {"key": MAX_KEY_NBYTES, "error": MAX_ERROR_NBYTES}
# Read by mapping, therefore aligned, besides the payload.
MAPPED_COLUMN = "view"


def payload_fields(kind: str, dtype: str, extents: Mapping[str, int]) -> tuple[Field, ...]:
    """The payload datasets of a kind; `extents` gives the length of each letter, {"h": 18, "w": 18}."""
    return tuple(Field(name, DTYPES[dtype], tuple(extents[d] for d in dims)) for name, dims in KINDS[kind])
