"""The constants of format version 1: names, kinds and columns. `docs/format.md` is the normative text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

Json: TypeAlias = bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"] | None

FORMAT_NAME = "tokenmix-maps"
FORMAT_VERSION = 1
HEADER_FILE = "store.json"
HEAD_FILE = "head.h5"
# Beside a copy that was pushed, no part of the store itself: what it consists of, and a page about it.
MANIFEST_FILE = "manifest.json"
CARD_FILE = "README.md"

STATUS_OK = 0
STATUS_UNREADABLE = 1
STATUSES = (STATUS_OK, STATUS_UNREADABLE)

# Superblock 3 and object header 2: the oldest structures with checksums, so HDF5 1.10 reads them too.
LIBVER = ("v110", "v110")
# File offset of the datasets that are read by mapping, in bytes.
ALIGNMENT = 4096
MAX_KEY_NBYTES = 4096
MAX_SHARDS = 1_000_000
MAX_ERROR_NBYTES = 512

# Little-endian in the file whatever the machine, so that the bytes can be mapped and hashed as they lie.
DTYPES: Mapping[str, np.dtype[Any]] = {
    "float16": np.dtype("<f2"),
    "float32": np.dtype("<f4"),
    "uint8": np.dtype("u1"),  # with SCALE_OFFSET; store/format/quantise.py
}


def header_name(extensions: int) -> str:
    """File name of the header after so many extensions."""
    return f"store-{extensions}.json" if extensions else HEADER_FILE


def keys_name(extensions: int) -> str:
    """File name of the keys of the rows before the last of so many extensions."""
    return f"store-{extensions}.keys"


def shard_name(shard: int) -> str:
    """File name of a shard."""
    return f"shard-{shard:05d}.h5"


class Field(NamedTuple):
    """A dataset of n rows: its name, its dtype and the shape of one row."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()


# kind -> its payload datasets, each with the letters of its row shape, in the order of the digest; d is the depth.
KINDS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "label": (("label_logit", "hw"),),
    "cam": (("label_cam", "hw"),),
    "activation": (("activation", "hw"),),
    "topk": (("topk_logit", "dhw"), ("topk_class", "dhw"), ("logsumexp", "hw")),
    "features": (("features", "dhw"),),
}
# Their maps say nothing of classes, so the teacher need not know those of the dataset.
CLASS_AGNOSTIC_KINDS = ("activation",)
NEVER_NEGATIVE = ("label_cam", "activation")
MAY_BE_UNKNOWN = "logsumexp"  # all NaN in a row: imported maps lack the logits of the other classes
# Of dtype uint8, behind the one plane of the payload: value = scale * steps + offset.
SCALE_OFFSET = Field("scale_offset", np.dtype("<f2"), (2,))
CLASS_DTYPES = (np.dtype("<u2"), np.dtype("<i4"))  # of topk_class: up to 65,536 outputs of the teacher, and beyond
MAX_OUTPUTS = 1 << 31

# The columns that every kind has, in the order of the digest.
COLUMNS = (
    Field("label", np.dtype("<i4")),
    Field("prediction", np.dtype("<i4")),
    Field("size", np.dtype("<i4"), (2,)),
    Field("view", np.dtype("<f4"), (4,)),
    Field("status", np.dtype("u1")),
)
# Columns that a store may have; its header says which. They come behind the others in the digest, in this order.
ORIENTATION = Field("orientation", np.dtype("u1"))
FINGERPRINT = Field("fingerprint", np.dtype("<u8"))
OPTIONAL_COLUMNS = (ORIENTATION, FINGERPRINT)
UNKNOWN = 0  # of either column: not read, or not readable
UPRIGHT, MAX_ORIENTATION = 1, 8  # EXIF counts from 1
DIGEST = Field("digest", np.dtype("<u8"))
# UTF-8 of fixed length, padded with NUL: inside the digest, not in HDF5's heap, which has no checksums.
TEXTS: Mapping[str, int] = {"key": MAX_KEY_NBYTES, "error": MAX_ERROR_NBYTES}
# Read by mapping, therefore aligned, besides the payload.
MAPPED_COLUMN = "view"


def payload_fields(kind: str, dtype: str, extents: Mapping[str, int], outputs: int) -> tuple[Field, ...]:
    """The payload datasets of a kind; `extents` gives the length of each letter, {"d": 1, "h": 18, "w": 18}.

    `outputs`: how many the teacher has, of which `topk_class` names some.
    """
    dtypes = {"topk_class": CLASS_DTYPES[outputs > 1 << 16]}
    planes = tuple(
        Field(name, dtypes.get(name, DTYPES[dtype]), tuple(extents[letter] for letter in letters))
        for name, letters in KINDS[kind]
    )
    return (*planes, SCALE_OFFSET) if dtype == "uint8" else planes


def plane_of(kind: str) -> str | None:
    """The dataset of a kind whose payload is one plane [h, w] per row; None for the others."""
    name, letters = KINDS[kind][0]
    return name if len(KINDS[kind]) == 1 and letters == "hw" else None


def has_depth(kind: str) -> bool:
    """Whether rows of this kind have planes: k of them for topk, C for features."""
    return any("d" in letters for _, letters in KINDS[kind])
