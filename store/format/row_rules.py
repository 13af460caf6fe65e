"""The rules that every row of a store must fulfil."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from store.format.header import Header
from store.format.table import Array, Table
from store.spec import (
    MAX_ORIENTATION,
    MAY_BE_UNKNOWN,
    NEVER_NEGATIVE,
    ORIENTATION,
    SCALE_OFFSET,
    STATUS_OK,
    STATUSES,
    TEXTS,
    Field,
    has_depth,
)

# Which rows [n] break a rule, and the rule.
Rule = tuple[npt.ArrayLike, str]


def row_faults(header: Header, table: Table) -> Iterator[tuple[int, str]]:
    """Rows that break a rule of the format, with the rule; the digest is not looked at."""
    for broken, rule in _rules(header, table):
        for row in np.flatnonzero(broken).tolist():
            yield row, rule


def _rules(header: Header, table: Table) -> Iterator[Rule]:
    ok = table["status"] == STATUS_OK
    yield from _column_rules(table, ok)
    for field in header.payload:
        yield from _payload_rules(field, table[field.name].reshape(len(ok), -1), ok)
    if SCALE_OFFSET in header.payload:
        negative = table[SCALE_OFFSET.name] < 0
        negative[:, 1] &= header.payload[0].name in NEVER_NEGATIVE
        yield negative.any(axis=1), f"{SCALE_OFFSET.name}: expected no negative number"
    if has_depth(header.kind):
        yield _outside(table["label"], len(header.teacher_class)), "label: expected a class of the dataset"
    if "topk_logit" in table:
        yield from _topk_rules(table["topk_logit"], table["topk_class"], header.outputs, ok)


def _column_rules(table: Table, ok: Array) -> Iterator[Rule]:
    status, size, view, has_reason = table["status"], table["size"], table["view"], table["error"] != b""
    yield ~np.isin(status, STATUSES), f"status: expected one of {STATUSES}"
    yield ok & has_reason, "error: expected no text for an ok row"
    yield ~ok & ~has_reason, "error: expected a reason for a row that is not ok"
    yield ~np.isfinite(view).all(axis=1), "view: expected finite numbers"
    yield ok & ~((view[:, :2] < view[:, 2:]).all(axis=1)), "view: expected x0 < x1 and y0 < y1"
    yield ok & (size < 1).any(axis=1), "size: expected width and height >= 1 px"
    yield table["key"] == b"", "key: expected a text, found none"
    if ORIENTATION.name in table:
        yield table[ORIENTATION.name] > MAX_ORIENTATION, f"orientation: expected at most {MAX_ORIENTATION}"
    for name in TEXTS:
        yield [not _is_utf8(text) for text in table[name].tolist()], f"{name}: expected UTF-8"


def _payload_rules(field: Field, flat: Array, ok: Array) -> Iterator[Rule]:
    """Of one dataset, as [n, numbers of a row]."""
    unknown = np.isnan(flat).all(axis=1) & (field.name == MAY_BE_UNKNOWN)
    yield ~np.isfinite(flat).all(axis=1) & ~unknown, f"{field.name}: expected finite numbers"
    yield ~ok & flat.any(axis=1), f"{field.name}: expected zeros for a row that is not ok"
    if field.name in NEVER_NEGATIVE:
        yield (flat < 0).any(axis=1), f"{field.name}: expected no negative number"


def _topk_rules(logits: Array, classes: Array, outputs: int, ok: Array) -> Iterator[Rule]:
    """Of logits and the numbers of their outputs, [n, k, h, w] each."""
    n = len(logits)
    outside = _outside(classes, outputs).reshape(n, -1).any(axis=1)
    yield outside, f"topk_class: expected outputs of the teacher, below {outputs}"
    with np.errstate(invalid="ignore"):  # of inf, which has a rule of its own
        rises = np.diff(logits.astype(np.float32), axis=1) > 0
    yield rises.reshape(n, -1).any(axis=1), "topk_logit: expected the largest first"
    ordered = np.sort(classes, axis=1)
    twice = ordered[:, 1:] == ordered[:, :-1]
    yield ok & twice.reshape(n, -1).any(axis=1), "topk_class: expected every class once"


def _outside(numbers: Array, end: int) -> npt.NDArray[np.bool_]:
    """Which numbers are not in [0, end)."""
    found: npt.NDArray[np.bool_] = (numbers < 0) | (numbers >= end)
    return found


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
