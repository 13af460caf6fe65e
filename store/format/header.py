"""The header: everything that decides a store's content, kept in `store.json`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt

from store.errors import StoreError, StoreMismatch
from store.format.header_fields import (
    ABSENT,
    expect_columns,
    expect_count,
    expect_dataset,
    expect_earlier,
    expect_grid,
    expect_kind,
    expect_mapping,
    expect_outputs,
    fault,
    short,
)
from store.format.sharding import Sharding
from store.spec import (
    COLUMNS,
    DIGEST,
    FORMAT_NAME,
    FORMAT_VERSION,
    MAX_SHARDS,
    OPTIONAL_COLUMNS,
    Field,
    Json,
    has_depth,
    payload_fields,
)

_NO_DIGEST = "0" * 64
_LONG = 10  # of a list that is not shown as a whole: two of 1000 class names may begin alike
NOT_COMPARED = ("root_name", "suffixes")  # of `dataset`: how its images were found, where `digest` says which they are


@dataclass(frozen=True)
class Header:
    """The plan and the origin of a store; h, w is the teacher's grid, `depth` is k of kind topk, C of features, else 1.

    `columns`: which of the optional columns every shard has.

    Of `teacher` and `preprocessing` only `teacher["classes"]`, the number of the teacher's outputs, is interpreted; the
    rest is compared, field by field. `versions` and `NOT_COMPARED` of `dataset` inform and are never compared: another
    machine may resume. Raises StoreError for a field with an impossible value.
    """

    kind: str
    teacher: Mapping[str, Json]
    preprocessing: Mapping[str, Json]
    grid: tuple[int, int]
    dtype: str
    rows: int
    shard_rows: int
    dataset: Mapping[str, Json]
    versions: Mapping[str, str]
    depth: int = 1
    earlier: tuple[tuple[int, str], ...] = ()  # `rows` and `dataset.digest` before each extension
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check every field and bring the mappings to what JSON gives back, so that equal means equal."""
        expect_kind(self.kind, self.dtype)
        for name in ("rows", "shard_rows", "depth"):
            object.__setattr__(self, name, expect_count(name, getattr(self, name)))
        object.__setattr__(self, "grid", expect_grid(self.grid))
        for name in ("teacher", "preprocessing", "dataset", "versions"):
            object.__setattr__(self, name, expect_mapping(name, getattr(self, name)))
        expect_outputs(self.kind, self.teacher)
        expect_dataset(self.kind, self.dataset, self.outputs)
        if self.depth != 1 and not has_depth(self.kind):
            raise fault("depth", f"1 for kind {self.kind}", self.depth)
        object.__setattr__(self, "earlier", expect_earlier(self.earlier, self.rows))
        object.__setattr__(self, "columns", expect_columns(self.columns))
        if self.sharding.shards > MAX_SHARDS:
            raise fault("shard_rows", f"at most {MAX_SHARDS} shards", self.shard_rows, f"there are {self.rows} rows")

    @cached_property
    def content_digest(self) -> str:
        """SHA-256, in hex, of the canonical JSON of all that decides the content; every shard carries it."""
        canonical = json.dumps(_content(self), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()

    @property
    def outputs(self) -> int:
        """How many outputs the teacher has; 0 where it has none, or nothing is said of them."""
        return int(self.teacher.get("classes", 0))  # type: ignore[arg-type]

    @cached_property
    def teacher_class(self) -> npt.NDArray[np.int64]:
        """int64 [K]: the output of the teacher that shows each class of the dataset; [0] where none does."""
        outputs = np.array(self.dataset["teacher_class"], dtype=np.int64)
        outputs.flags.writeable = False
        return outputs

    @cached_property
    def sharding(self) -> Sharding:
        """Which shard holds which row."""
        return Sharding(self.rows, self.shard_rows, tuple(rows for rows, _ in self.earlier))

    def before(self, extension: int) -> Header:
        """The header as it was before an extension, of which the first has number 0."""
        rows, digest = self.earlier[extension]
        return replace(self, rows=rows, dataset={**self.dataset, "digest": digest}, earlier=self.earlier[:extension])

    def after(self, extensions: int) -> Header:
        """The header as it was after so many extensions."""
        return self.before(extensions) if extensions < len(self.earlier) else self

    @property
    def lineage(self) -> tuple[str, ...]:
        """The `content_digest` of the store after each number of extensions so far: all are states of one store."""
        return self._digests

    def digest_of(self, shard: int) -> str:
        """The `content_digest` that a shard carries: that of the header under which it was planned."""
        return self._digests[self.sharding.part(shard)]

    def identities(self, rows: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Which store each of rows [B] is of, as a number: the first eight bytes of the digest that its shard carries.

        So a row keeps it when the store is copied, moved or extended, and has another one in any other store.
        """
        found: npt.NDArray[np.int64] = self._identities[
            np.searchsorted([end for end, _ in self.earlier], rows, side="right")
        ]
        return found

    @cached_property
    def _identities(self) -> npt.NDArray[np.int64]:
        return np.array([int(digest[:16], 16) for digest in self._digests], np.uint64).view(np.int64)

    @cached_property
    def _digests(self) -> tuple[str, ...]:
        return (*(self.before(number).content_digest for number in range(len(self.earlier))), self.content_digest)

    @property
    def payload(self) -> tuple[Field, ...]:
        """The payload datasets of this kind, as they lie in a shard."""
        return self._payload_of(self.dtype)

    @property
    def maps(self) -> tuple[Field, ...]:
        """The payload as it is given to a writer and read back: the same, but float32 where uint8 is stored."""
        return self._payload_of(self.maps_dtype)

    @property
    def maps_dtype(self) -> str:
        """The float type of `maps`."""
        return "float32" if self.dtype == "uint8" else self.dtype

    @property
    def datasets(self) -> tuple[Field, ...]:
        """Every dataset of a shard but the texts; all but the last are in the row digest, in this order."""
        return (*self.payload, *COLUMNS, *self.optional, DIGEST)

    @property
    def optional(self) -> tuple[Field, ...]:
        """The optional columns that this store has."""
        return tuple(column for column in OPTIONAL_COLUMNS if column.name in self.columns)

    def _payload_of(self, dtype: str) -> tuple[Field, ...]:
        h, w = self.grid
        return payload_fields(self.kind, dtype, {"d": self.depth, "h": h, "w": w}, self.outputs)

    def to_json(self) -> str:
        """The text of `store.json`."""
        document = _document(self) | {"content_digest": self.content_digest, "file_digest": _NO_DIGEST}
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        return text.replace(_NO_DIGEST, _file_digest(text, _NO_DIGEST))

    @classmethod
    def from_json(cls, text: str) -> Header:
        """Read `store.json` strictly; StoreError without the path, which the caller knows."""
        document = _parse(text)
        names = [field.name for field in fields(cls)]
        expected = {"format", "version", "content_digest", "file_digest", *names}
        if document.get("columns") == [] or document.keys() | {"columns"} != expected:
            raise fault("fields", sorted(expected), sorted(document), "it was edited, or is a newer version's")
        header = cls(**{name: document[name] for name in names if name in document})
        if document["content_digest"] != header.content_digest:
            raise fault("content_digest", header.content_digest, document["content_digest"], "it was edited")
        if document["file_digest"] != _file_digest(text, document["file_digest"]):
            raise fault("file_digest", "that of the file", document["file_digest"], "it was edited")
        return header

    def require(self, given: Header, where: object) -> None:
        """Raise StoreMismatch where `given`, a new configuration, differs from this stored one."""
        if self.content_digest == given.content_digest:
            return
        found = differences("", _content(self), _content(given))
        lines = [f"  {name}: stored {short(a)}, given {short(b)}" for name, a, b in found]
        raise StoreMismatch(
            f"{where}: the store was made with another configuration:\n" + "\n".join(lines) + "\n"
            "Give the stored values to resume, or another path to start a new store."
        )


def _file_digest(text: str, digest: object) -> str:
    """SHA-256, in hex, of the file as it is with zeros for `digest`, the digits of this very digest."""
    return hashlib.sha256(text.replace(str(digest), _NO_DIGEST).encode("utf-8")).hexdigest()


def _document(header: Header) -> dict[str, Any]:
    values = {field.name: getattr(header, field.name) for field in fields(header)}
    values |= {"grid": list(header.grid), "earlier": [list(one) for one in header.earlier]}
    if header.columns:
        values["columns"] = list(header.columns)
    else:  # as before there were any, so that digests of such stores stay what they are
        del values["columns"]
    return {"format": FORMAT_NAME, "version": FORMAT_VERSION, **values}


def _content(header: Header) -> dict[str, Any]:
    """All but what another machine may have otherwise: library versions, and how the images were found."""
    document = _document(header)
    del document["versions"]
    document["dataset"] = {name: value for name, value in header.dataset.items() if name not in NOT_COMPARED}
    return document


def _parse(text: str) -> dict[str, Any]:
    """The JSON object, its format and version checked before anything else is looked at."""
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"expected JSON, found {error}; restore the file from a copy") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT_NAME:
        raise StoreError(f"not a store: expected a JSON object with format {FORMAT_NAME!r}")
    version = document.get("version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise fault("version", FORMAT_VERSION, version, "a newer version of this library may read it")
    return document


def _refuse_constant(name: str) -> None:
    raise ValueError(f"the number {name}")


def differences(name: str, a: Any, b: Any) -> Iterator[tuple[str, object, object]]:
    """Each leaf at which two JSON values differ; lists count as leaves, long ones by their first difference."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in dict.fromkeys([*a, *b]):
            yield from differences(f"{name}.{key}".lstrip("."), a.get(key, ABSENT), b.get(key, ABSENT))
    elif json.dumps(a) != json.dumps(b):  # 1, 1.0 and true are equal to Python, not to the digest
        if isinstance(a, list) and isinstance(b, list) and max(len(a), len(b)) > _LONG:
            pairs = enumerate(zip_longest(a, b, fillvalue=ABSENT))
            place, (a, b) = next((i, pair) for i, pair in pairs if json.dumps(pair[0]) != json.dumps(pair[1]))
            name = f"{name}[{place}]"
        yield name, a, b
