"""Rows as a writer hands them over, and the digest of the list of images."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from store.errors import StoreError
from store.format.header import Header
from store.format.quantise import quantise
from store.format.row_rules import row_faults
from store.format.table import Array, Table, row_digests
from store.spec import COLUMNS, DIGEST, MAX_ERROR_NBYTES, MAX_KEY_NBYTES, SCALE_OFFSET


@dataclass(frozen=True)
class RowBatch:
    """B consecutive rows, in the order of the store.

    payload: `Header.maps`, {"label_logit": [B, h, w]} for kind label, float32 where the store's dtype is uint8;
    label, prediction: int32 [B]; size: int32 [B, 2], width and height in px; view: float32 [B, 4], (x0, y0, x1, y1)
    in the unit square of the image; status: uint8 [B]; key: [B] path relative to the dataset root, '/' separated;
    error: [B] "" for ok rows. A row that is not ok has an all-zero payload and a reason.
    orientation: uint8 [B], 1 to 8, and fingerprint: uint64 [B], `store.fingerprint`'s; 0 where unknown. Needed, and
    stored, where `Header.columns` names them.
    """

    payload: Mapping[str, Array]
    label: npt.NDArray[np.int32]
    prediction: npt.NDArray[np.int32]
    size: npt.NDArray[np.int32]
    view: npt.NDArray[np.float32]
    status: npt.NDArray[np.uint8]
    key: Sequence[str]
    error: Sequence[str]
    orientation: npt.NDArray[np.uint8] | None = None
    fingerprint: npt.NDArray[np.uint64] | None = None


def list_digest(keys: Sequence[str], labels: Sequence[int] | npt.NDArray[np.int32]) -> str:
    """SHA-256, in hex, of the ordered (key, label) list; StoreError for a repeated key."""
    if len(keys) != len(labels):
        raise StoreError(f"list of images: expected as many keys as labels, found {len(keys)} and {len(labels)}")
    if len(set(keys)) != len(keys):
        seen: set[str] = set()
        twice = next(key for key in keys if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise StoreError(f"list of images: expected every key once, found {twice!r} again; remove one")
    digest = ListDigest()
    digest.update(_encode_keys(keys), np.asarray(labels, dtype="<i4"))
    return digest.hexdigest()


class ListDigest:
    """`list_digest` in parts: per row the key in UTF-8, a NUL, and the label as little-endian int32."""

    def __init__(self) -> None:
        """Start with an empty list."""
        self._hash = hashlib.sha256()

    def update(self, keys: Sequence[bytes], labels: Array) -> None:
        """Add the next rows."""
        raw = labels.astype("<i4").tobytes()
        parts = [key + b"\0" + raw[i : i + 4] for i, key in zip(range(0, len(raw), 4), keys, strict=True)]
        self._hash.update(b"".join(parts))

    def hexdigest(self) -> str:
        """The digest of all rows so far."""
        return self._hash.hexdigest()


def batch_table(header: Header, batch: RowBatch) -> Table:
    """The batch as datasets, digests included; StoreError for a wrong dtype, shape or row."""
    b = len(batch.key)
    columns = (*COLUMNS, *header.optional)
    given = dict(batch.payload) | {field.name: getattr(batch, field.name) for field in columns}
    expected = (*header.maps, *columns)
    if given.keys() != {field.name for field in expected}:
        raise StoreError(f"batch: expected {[f.name for f in header.maps]}, found {sorted(batch.payload)}")
    table: Table = {}
    for name, dtype, shape in expected:
        array = np.asarray(given[name])
        if array.dtype != dtype or array.shape != (b, *shape):
            raise StoreError(
                f"batch, {name}: expected {dtype} {[b, *shape]} for {b} keys, "
                f"found {array.dtype} {list(array.shape)}; convert it before it is appended"
            )
        table[name] = array.astype(dtype, copy=True)
    if header.dtype == "uint8":
        plane = header.maps[0].name
        table[plane], table[SCALE_OFFSET.name] = quantise(table[plane])
    if len(batch.error) != b:
        raise StoreError(f"batch, error: expected {b} texts for {b} keys, found {len(batch.error)}")
    table["key"] = np.array([_encode_key(key) for key in batch.key], dtype="S")
    table["error"] = np.array([_encode_error(text) for text in batch.error], dtype="S")
    for row, message in row_faults(header, table):
        raise StoreError(f"row {row} of the batch, key {batch.key[row]!r}: {message}")
    return table | {DIGEST.name: row_digests(header, table)}


def _encode_keys(keys: Sequence[str]) -> Sequence[bytes]:
    """All at once, which takes a third of the time; one by one where one of them is wrong."""
    try:
        raws = "\0".join(keys).encode("utf-8").split(b"\0")
    except UnicodeEncodeError:
        raws = []
    sound = len(raws) == len(keys) and min(map(len, raws)) > 0 and max(map(len, raws)) <= MAX_KEY_NBYTES
    return raws if sound else [_encode_key(key) for key in keys]


def _encode_key(key: str) -> bytes:
    try:
        raw = key.encode("utf-8")
    except UnicodeEncodeError as error:
        raise StoreError(f"key {key!r}: expected text that UTF-8 can hold; rename the file") from error
    if not raw or b"\0" in raw or len(raw) > MAX_KEY_NBYTES:
        raise StoreError(
            f"key {key[:80]!r}: expected 1 to {MAX_KEY_NBYTES} bytes without NUL, found {len(raw)}; rename the file"
        )
    return raw


def _encode_error(text: str) -> bytes:
    """A reason is for people: made to fit, never refused."""
    raw = text.replace("\0", " ").encode("utf-8", errors="backslashreplace")[:MAX_ERROR_NBYTES]
    return raw.decode("utf-8", errors="ignore").encode("utf-8")
