"""Reading a store during training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from store.errors import StoreError
from store.folder.create import read_header
from store.folder.files import StrPath
from store.folder.head import Head, read_head
from store.format.header import Header
from store.format.sharding import Rows
from store.reading.row_readers import DequantisedRows, RowReader, open_rows
from store.reading.sample_check import SampleCheck
from store.reading.shard_files import ShardFiles
from store.spec import COLUMNS, FINGERPRINT, KINDS, MAPPED_COLUMN, ORIENTATION, SCALE_OFFSET, STATUS_OK, Field, plane_of
from store.transfer.cache import local_store

Array = npt.NDArray[Any]
IndexLike = Sequence[int] | npt.NDArray[np.integer[Any]]
_VIEW = next(field for field in COLUMNS if field.name == MAPPED_COLUMN)


class Keys(Sequence[str]):
    """The keys of a store in order; kept as bytes, which forked workers share, decoded when asked for."""

    def __init__(self, raw: Array) -> None:
        """`raw`: [N] of NUL-padded UTF-8."""
        self._raw = raw

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._raw)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> Keys: ...
    def __getitem__(self, row: int | slice) -> str | Keys:
        """A key, or the keys of a slice."""
        return Keys(self._raw[row]) if isinstance(row, slice) else next(_texts([self._raw[row]]))

    def __iter__(self) -> Iterator[str]:
        """All keys, quickly."""
        return _texts(self._raw.tolist())


class MapStore:
    """A complete store, read by row, or an `unfinished` one; h, w is the teacher's grid, N the number of rows.

    Maps and views are read through the page cache, which all processes share: nothing is copied into this
    one. It pickles as its path, and works after fork and spawn. When it is opened,
    the digests of a few rows per shard are checked (`checked`: row -> key and label); `verify` checks all rows.
    """

    def __init__(
        self,
        path: StrPath,
        *,
        preload: bool = False,
        check: bool = True,
        extensions: int | None = None,
        unfinished: bool = False,
    ) -> None:
        """Open every shard; `preload` reads them all once, in order, which is faster than row by row.

        `extensions`: as the store was after so many of them, also while the next is under way; None: after all.
        `unfinished`: shards may be missing. `finished` says which rows there are; maps of others raise ShardError.
        A URL, as `hf://datasets/USER/NAME` or `s3://BUCKET/PATH`, is pulled once, into `store.cache_folder(URL)`.
        Raises StoreError where there is no store, TransferError where it cannot be pulled, ShardError for a missing,
        torn or foreign shard, and, unless `check` is off, for one with rows that were changed, shuffled or swapped.
        """
        self._folder = local_store(path).absolute()
        self._preload = preload
        self.header: Header = read_header(self._folder, extensions)
        self._unfinished = unfinished
        self._shards = ShardFiles(self._folder, self.header, unfinished=unfinished)
        if preload:
            self._shards.read_through()
        sample = SampleCheck(self.header) if check else None
        random = self._shards.exceed_memory()
        fields = (*self.header.payload, _VIEW)
        self._rows: dict[str, RowReader] = {
            field.name: open_rows(places, self.header.sharding, field, random=random)
            for field, places in zip(fields, self._shards.places(fields, sample), strict=True)
        }
        self.checked = sample.rows if sample else {}
        if SCALE_OFFSET.name in self._rows:
            plane = self.header.payload[0].name
            self._rows[plane] = DequantisedRows(self._rows[plane], self._rows.pop(SCALE_OFFSET.name))

    @property
    def kind(self) -> str:
        """What is stored per image."""
        return self.header.kind

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of a map."""
        return self.header.grid

    def __len__(self) -> int:
        """Number of rows N."""
        return self.header.rows

    def __repr__(self) -> str:
        """The path, and what is there."""
        return f"MapStore({str(self._folder)!r}: {len(self)} x {self.kind} {self.grid})"

    def __str__(self) -> str:
        """The path, as messages have it."""
        return str(self._folder)

    def __reduce__(self) -> tuple[Callable[[StrPath], MapStore], tuple[str]]:
        """As a path, for a mapping would pickle by value; and as the store was when it was opened."""
        again = partial(
            MapStore,
            preload=self._preload,
            check=False,
            extensions=len(self.header.earlier),
            unfinished=self._unfinished,
        )
        return again, (str(self._folder),)

    @cached_property
    def finished(self) -> npt.NDArray[np.bool_]:
        """Which rows are in shards that were there when the store was opened, [N]."""
        return self._shards.finished_rows()

    def read(self, rows: IndexLike) -> Array:
        """One map for each of rows [B] -> [B, h, w] of the header's dtype, float32 where that is uint8.

        Of a kind with one plane per row (label, cam, activation) it is what is stored; of kind topk the logit of the
        teacher's output for the row's label where that is among the token's top k, else 0; of kind features that
        output's logit by the head's weights, at the price of reading all features. IndexError for a row outside
        [0, N), StoreError for a label that is no class of the dataset.
        """
        if self.kind == "features":
            return self._label_of_features(_as_rows(rows))
        if self.kind == "topk":
            logits, classes = self.read_topk(rows)
            output = self._outputs_of(_as_rows(rows))
            found: Array = np.where(classes == output[:, None, None, None], logits, 0).sum(axis=1, dtype=logits.dtype)
            return found
        return self._reader(tuple(filter(None, map(plane_of, KINDS))), "read").take(_as_rows(rows))

    def read_topk(self, rows: IndexLike) -> tuple[Array, Array]:
        """Kind topk: of rows [B] the k largest logits per token, the largest first, and their classes, [B, k, h, w]."""
        found = _as_rows(rows)
        return self._reader("topk_logit", "read_topk").take(found), self._rows["topk_class"].take(found)

    def read_logsumexp(self, rows: IndexLike) -> Array:
        """Kind topk: log sum exp over the logits of all classes, of rows [B] -> [B, h, w].

        `exp(logit - logsumexp)` is a token's probability of a class. StoreError for imported maps, of which only the
        k largest logits are known.
        """
        found = self._reader("logsumexp", "read_logsumexp").take(_as_rows(rows))
        if np.isnan(found).any():
            raise StoreError(
                f"{self._folder}: read_logsumexp: expected the logits of all classes, found maps imported with their "
                f"top {self.header.depth} only, which have no probabilities; use logits, or extract with --kind topk"
            )
        return found

    @cached_property
    def head(self) -> Head:
        """Kind features: the classifier's weights; `features @ weight.T + bias` are the logits of all classes."""
        self._reader("features", "head")
        return read_head(self._folder, self.header)

    def read_features(self, rows: IndexLike) -> Array:
        """Kind features: the teacher's last features, of rows [B] -> [B, C, h, w]."""
        return self._reader("features", "read_features").take(_as_rows(rows))

    def views(self, rows: IndexLike) -> npt.NDArray[np.float32]:
        """Views (x0, y0, x1, y1) of rows [B] -> [B, 4] in the unit square of the image; IndexError outside."""
        return self._rows[MAPPED_COLUMN].take(_as_rows(rows))

    @cached_property
    def keys(self) -> Keys:
        """Keys [N]."""
        return Keys(self._shards.column("key"))

    @cached_property
    def labels(self) -> npt.NDArray[np.int32]:
        """The dataset's own class of each row [N]."""
        return self._shards.column("label")

    @cached_property
    def predictions(self) -> npt.NDArray[np.int32]:
        """The teacher's top-1 [N], one of its outputs; -1 where there is none."""
        return self._shards.column("prediction")

    @cached_property
    def sizes(self) -> npt.NDArray[np.int32]:
        """Width and height of the decoded images [N, 2], in px."""
        return self._shards.column("size")

    @cached_property
    def statuses(self) -> npt.NDArray[np.uint8]:
        """0 ok, 1 unreadable image [N]."""
        return self._shards.column("status")

    @cached_property
    def orientations(self) -> npt.NDArray[np.uint8]:
        """How EXIF says that the decoded images are to be turned, 1 to 8 [N]; 0 where that is not known."""
        return self._optional_column(ORIENTATION)

    @cached_property
    def fingerprints(self) -> npt.NDArray[np.uint64]:
        """Of the encoded files, by `store.fingerprint` [N]; 0 where it is not known."""
        return self._optional_column(FINGERPRINT)

    @cached_property
    def errors(self) -> dict[int, str]:
        """Row -> reason, for the rows that are not ok."""
        texts = self._shards.column("error")
        rows = np.flatnonzero(self.finished & (self.statuses != STATUS_OK))
        return dict(zip(rows.tolist(), _texts(texts[rows].tolist()), strict=True))

    def _label_of_features(self, rows: Rows) -> Array:
        output = self._outputs_of(rows)
        features = self.read_features(rows).astype(np.float32)
        logits = np.einsum("bchw,bc->bhw", features, self.head.weight[output]) + self.head.bias[output][:, None, None]
        logits[self.statuses[rows] != STATUS_OK] = 0
        found: Array = logits.astype(self.header.dtype)
        return found

    def _outputs_of(self, rows: Rows) -> npt.NDArray[np.int64]:
        """The teacher's output for the label of each of rows [B]."""
        labels, outputs = self.labels[rows], self.header.teacher_class
        if (wrong := (labels < 0) | (labels >= len(outputs))).any():
            raise StoreError(
                f"{self._folder}: row {rows[wrong][0]}: expected a label below {len(outputs)}, found "
                f"{labels[wrong][0]}; run `tokenmix verify`"
            )
        return outputs[labels]

    def _reader(self, names: str | Sequence[str], method: str) -> RowReader:
        """The reader of the dataset, or of the one of several that this kind has; StoreError where it has none."""
        wanted = (names,) if isinstance(names, str) else names
        for name in wanted:
            if name in self._rows:
                return self._rows[name]
        kinds = [kind for kind, payload in KINDS.items() if any(name in wanted for name, _ in payload)]
        raise StoreError(
            f"{self._folder}: {method}: expected kind {' or '.join(kinds)}, found {self.kind}; "
            "extract with another --kind"
        )

    def _optional_column(self, field: Field) -> Array:
        if field.name in self.header.columns:
            return self._shards.column(field.name)
        return np.zeros(len(self), field.dtype)


def _texts(raws: Iterable[bytes]) -> Iterator[str]:
    try:
        for raw in raws:
            yield raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise StoreError(f"{error.object!r}: expected UTF-8, found other bytes; run `tokenmix verify`") from error


def _as_rows(rows: IndexLike) -> Rows:
    array = np.asarray(rows)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise IndexError(f"rows: expected whole numbers [B], found {array.dtype} {list(array.shape)}")
    return array.astype(np.int64, copy=False)
