"""Rows in memory: what a writer hands over, what a row must fulfil, and the digests over it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from store.errors import StoreError
from store.format.header import Header
from store.format.quantise import quantise
from store.spec import (
    COLUMNS,
    DIGEST,
    MAX_ERROR_NBYTES,
    MAX_KEY_NBYTES,
    MAY_BE_UNKNOWN,
    NEVER_NEGATIVE,
    SCALE_OFFSET,
    STATUS_OK,
    STATUSES,
    TEXTS,
    has_depth,
)

Array = npt.NDArray[Any]
# The datasets of a shard by name; texts are arrays of NUL-padded UTF-8 (dtype "S").
Table = dict[str, Array]


@dataclass(frozen=True)
class RowBatch:
    """B consecutive rows, in the order of the store.

    payload: `Header.maps`, {"label_logit": [B, h, w]} for kind label, float32 where the store's dtype is uint8;
    label, prediction: int32 [B]; size: int32 [B, 2], width and height in px; view: float32 [B, 4], (x0, y0, x1, y1)
    in the unit square of the image; status: uint8 [B]; key: [B] path relative to the dataset root, '/' separated;
    error: [B] "" for ok rows. A row that is not ok has an all-zero payload and a reason.
    """

    payload: Mapping[str, Array]
    label: npt.NDArray[np.int32]
    prediction: npt.NDArray[np.int32]
    size: npt.NDArray[np.int32]
    view: npt.NDArray[np.float32]
    status: npt.NDArray[np.uint8]
    key: Sequence[str]
    error: Sequence[str]


def list_digest(keys: Sequence[str], labels: Sequence[int] | npt.NDArray[np.int32]) -> str:
    """SHA-256, in hex, of the ordered (key, label) list; StoreError for a repeated key."""
    if len(keys) != len(labels):
        raise StoreError(f"list of images: expected as many keys as labels, found {len(keys)} and {len(labels)}")
    if len(set(keys)) != len(keys):
        seen: set[str] = set()
        twice = next(key for key in keys if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise StoreError(f"list of images: expected every key once, found {twice!r} again; remove one")
    digest = ListDigest()
    digest.update([_encode_key(key) for key in keys], np.asarray(labels, dtype="<i4"))
    return digest.hexdigest()


class ListDigest:
    """`list_digest` in parts: per row the key in UTF-8, a NUL, and the label as little-endian int32."""

    def __init__(self) -> None:
        """Start with an empty list."""
        self._hash = hashlib.sha256()

    def update(self, keys: Sequence[bytes], labels: Array) -> None:
        """Add the next rows."""
        raw = labels.astype("<i4").tobytes()
        parts = (key + b"\0" + raw[4 * i : 4 * i + 4] for i, key in enumerate(keys))
        self._hash.update(b"".join(parts))

    def hexdigest(self) -> str:
        """The digest of all rows so far."""
        return self._hash.hexdigest()


def batch_table(header: Header, batch: RowBatch) -> Table:
    """The batch as datasets, digests included; StoreError for a wrong dtype, shape or row."""
    b = len(batch.key)
    given = dict(batch.payload) | {field.name: getattr(batch, field.name) for field in COLUMNS}
    expected = (*header.maps, *COLUMNS)
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


def row_faults(header: Header, table: Table) -> Iterator[tuple[int, str]]:
    """Rows that break a rule of the format, with the rule; the digest is not looked at."""
    status, size, view = table["status"], table["size"], table["view"]
    ok = status == STATUS_OK
    has_reason = table["error"] != b""
    rules: list[tuple[npt.ArrayLike, str]] = [
        (~np.isin(status, STATUSES), f"status: expected one of {STATUSES}"),
        (ok & has_reason, "error: expected no text for an ok row"),
        (~ok & ~has_reason, "error: expected a reason for a row that is not ok"),
        (~np.isfinite(view).all(axis=1), "view: expected finite numbers"),
        (ok & ~((view[:, :2] < view[:, 2:]).all(axis=1)), "view: expected x0 < x1 and y0 < y1"),
        (ok & (size < 1).any(axis=1), "size: expected width and height >= 1 px"),
        (table["key"] == b"", "key: expected a text, found none"),
        *(([not _is_utf8(text) for text in table[name].tolist()], f"{name}: expected UTF-8") for name in TEXTS),
    ]
    for field in header.payload:
        flat = table[field.name].reshape(len(status), -1)
        unknown = np.isnan(flat).all(axis=1) & (field.name == MAY_BE_UNKNOWN)
        rules.append((~np.isfinite(flat).all(axis=1) & ~unknown, f"{field.name}: expected finite numbers"))
        rules.append((~ok & flat.any(axis=1), f"{field.name}: expected zeros for a row that is not ok"))
        if field.name in NEVER_NEGATIVE:
            rules.append(((flat < 0).any(axis=1), f"{field.name}: expected no negative number"))
    if SCALE_OFFSET in header.payload:
        negative = table[SCALE_OFFSET.name] < 0
        negative[:, 1] &= header.payload[0].name in NEVER_NEGATIVE
        rules.append((negative.any(axis=1), f"{SCALE_OFFSET.name}: expected no negative number"))
    if has_depth(header.kind):
        rules.append((_outside(table["label"], len(header.teacher_class)), "label: expected a class of the dataset"))
    if "topk_logit" in table:
        strange = _outside(table["topk_class"], header.outputs).reshape(len(status), -1)
        rules.append((strange.any(axis=1), f"topk_class: expected outputs of the teacher, below {header.outputs}"))
        with np.errstate(invalid="ignore"):  # of inf, which has a rule of its own
            rises = np.diff(table["topk_logit"].astype(np.float32), axis=1) > 0
        ordered = np.sort(table["topk_class"], axis=1)
        twice = ordered[:, 1:] == ordered[:, :-1]
        rules.append((rises.reshape(len(status), -1).any(axis=1), "topk_logit: expected the largest first"))
        rules.append((ok & twice.reshape(len(status), -1).any(axis=1), "topk_class: expected every class once"))
    for broken, rule in rules:
        for row in np.flatnonzero(broken).tolist():
            yield row, rule


def _outside(numbers: Array, end: int) -> npt.NDArray[np.bool_]:
    """Which numbers are not in [0, end)."""
    found: npt.NDArray[np.bool_] = (numbers < 0) | (numbers >= end)
    return found


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


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _encode_error(text: str) -> bytes:
    """A reason is for people: made to fit, never refused."""
    raw = text.replace("\0", " ").encode("utf-8", errors="backslashreplace")[:MAX_ERROR_NBYTES]
    return raw.decode("utf-8", errors="ignore").encode("utf-8")
