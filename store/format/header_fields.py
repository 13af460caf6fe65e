"""What each field of a header may hold; StoreError for what it may not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from store.errors import StoreError
from store.spec import CLASS_AGNOSTIC_KINDS, DTYPES, KINDS, MAX_OUTPUTS, OPTIONAL_COLUMNS, Json, has_depth, plane_of

ABSENT = "(absent)"


def expect_kind(kind: object, dtype: object) -> None:
    """A known kind, and a dtype in which it can be stored."""
    for name, value, known in (("kind", kind, KINDS), ("dtype", dtype, DTYPES)):
        if not isinstance(value, str) or value not in known:
            raise fault(name, f"one of {', '.join(known)}", value)
    if dtype == "uint8" and plane_of(str(kind)) is None:
        raise fault("dtype", f"float16 or float32 for kind {kind}", dtype)


def expect_count(name: str, value: object) -> int:
    """A whole number >= 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise fault(name, "a whole number >= 1", value)
    return int(value)


def expect_grid(value: object) -> tuple[int, int]:
    """(h, w)."""
    if not (isinstance(value, Sequence) and len(value) == 2):
        raise fault("grid", "two integers (h, w)", value)
    return expect_count("grid", value[0]), expect_count("grid", value[1])


def expect_mapping(name: str, value: object) -> dict[str, Any]:
    """A mapping as JSON gives it back."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise fault(name, "a mapping with text keys", value)
    try:
        text = json.dumps(dict(value), allow_nan=False, ensure_ascii=False)
        plain: dict[str, Any] = json.loads(text.encode("utf-8"))
    except (TypeError, ValueError) as error:
        raise fault(name, "finite JSON values", error) from error
    return plain


def expect_outputs(kind: str, teacher: Mapping[str, Json]) -> None:
    """Kinds with a depth keep what depends on the number of outputs: names of them, or a weight for each."""
    least = int(has_depth(kind))
    found = teacher.get("classes", ABSENT if least else 0)
    if type(found) is not int or not least <= found <= MAX_OUTPUTS:
        raise fault("teacher.classes", f"the number of the teacher's outputs, >= {least} for kind {kind}", found)


def expect_dataset(kind: str, dataset: Mapping[str, Any], outputs: int) -> None:
    """The names of K classes and, for each, one of so many outputs of the teacher."""
    for name, type_ in (("root_name", str), ("class_names", list), ("teacher_class", list), ("digest", str)):
        if not isinstance(dataset.get(name), type_):
            raise fault(f"dataset.{name}", f"a {type_.__name__}", dataset.get(name, ABSENT))
    entries, k = dataset["teacher_class"], len(dataset["class_names"])
    if len(entries) != k and (entries or kind not in CLASS_AGNOSTIC_KINDS):
        raise fault("dataset.teacher_class", f"one output of the teacher for each of {k} classes", entries)
    end = outputs or MAX_OUTPUTS
    if not all(type(entry) is int and 0 <= entry < end for entry in entries):
        raise fault("dataset.teacher_class", f"outputs of the teacher, whole numbers from 0 to {end - 1}", entries)


def expect_earlier(value: object, rows: int) -> tuple[tuple[int, str], ...]:
    """(rows, digest) before each extension."""
    pairs = [tuple(one) if isinstance(one, list | tuple) else (one,) for one in _as_list(value)]
    ends = [expect_count("earlier", pair[0]) for pair in pairs]
    if any(len(pair) != 2 or not isinstance(pair[1], str) for pair in pairs) or sorted({*ends, rows}) != [*ends, rows]:
        raise fault("earlier", "a list of [rows, digest], rows ascending to below `rows`", value)
    return tuple((end, pair[1]) for end, pair in zip(ends, pairs, strict=True))


def expect_columns(value: object) -> tuple[str, ...]:
    """Names of optional columns, in the order in which a row's digest takes them."""
    known = [column.name for column in OPTIONAL_COLUMNS]
    if not isinstance(value, list | tuple) or list(value) != [name for name in known if name in value]:
        raise fault("columns", f"some of {known}, in this order", value, "a newer version of this library may know it")
    return tuple(value)


def _as_list(value: object) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise fault("earlier", "a list", value)
    return value


def fault(name: str, expected: object, found: object, remedy: str = "") -> StoreError:
    """The error for a field that is not as expected, to be raised."""
    return StoreError(f"header field {name}: expected {expected}, found {short(found)}" + (remedy and f"; {remedy}"))


def short(value: object, most: int = 120) -> str:
    """The value for a message; a list of 1000 class names is not one."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"
