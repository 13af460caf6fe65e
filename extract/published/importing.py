"""Maps that others have computed: one `.pt` per image, in a tree parallel to the images, into a store of kind topk."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from extract.errors import ExtractError, ImagesError
from extract.images.image_list import ImageList
from extract.job.decoding import reason_of
from extract.job.fill import Rows, fill_store
from extract.job.progress import Progress, Report
from extract.published.exporting import MAX_OUTPUTS_OF_HALF, map_paths
from extract.published.torch_file import read_tensor
from extract.settings import ImportOptions
from store import Header, RowBatch
from store.spec import STATUS_OK, STATUS_UNREADABLE

Array = npt.NDArray[Any]
BATCH = 256
SAMPLED_FILES = 16


class TreeFormat(NamedTuple):
    """What is known of published trees: the view that their teacher had, and the type of their numbers."""

    view: str
    dtype: str


# Both are [2, k, h, w]: logits, the largest first, then class numbers. See docs/importing.md.
FORMATS = {"tokenlabeling": TreeFormat("center", "float16"), "relabel": TreeFormat("squash", "float32")}


def import_tree(
    form: str,
    tree: Path,
    images: ImageList,
    store: Path,
    options: ImportOptions,
    teacher_class: Sequence[int] | None = None,
    outputs: int | None = None,
    *,
    on_progress: Callable[[Progress], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> Report:
    """Fill this worker's share of the store, then help the others; started again, it goes on.

    Class numbers in the files are outputs of the published teacher, of which there are `outputs`; `teacher_class` [K]
    is the one that shows each class of the dataset. None: as many as the dataset has classes, in order.

    A missing or broken map is a row with status 1, and counted. The running top-1 is that of the
    most frequent first class. Raises what `fill_store` raises, and ImagesError for a tree of which no file is a map,
    for two images of one map, and for class numbers that the files cannot hold.
    """
    paths = [tree / path for path in map_paths(images.keys)]
    header = make_import_header(form, tree, paths, images, options, teacher_class, outputs)
    return fill_store(
        store,
        header,
        _PublishedRows(images, paths, header),
        batch_size=BATCH,
        worker=options.worker,
        max_errors=options.max_errors,
        on_progress=on_progress,
        stop=stop,
    )


def make_import_header(
    form: str,
    tree: Path,
    paths: Sequence[Path],
    images: ImageList,
    options: ImportOptions,
    teacher_class: Sequence[int] | None = None,
    outputs: int | None = None,
) -> Header:
    """All that decides the content: shapes from the first map that can be read, and a digest of a few files."""
    outputs = len(images.class_names) if outputs is None else outputs
    first = _first_map(tree, paths)
    if first.dtype == np.float16 and outputs > MAX_OUTPUTS_OF_HALF:
        raise ImagesError(
            f"{tree}: expected at most {MAX_OUTPUTS_OF_HALF} classes, whose numbers float16 can hold, found {outputs}; "
            "save the class numbers in another type"
        )
    view, dtype = FORMATS[form]
    return Header(
        kind="topk",
        teacher={
            "name": f"imported from {form} files",
            "classes": outputs,
            "files": _sampled(paths),
            "logsumexp": "unknown",
        },
        preprocessing={"crop_mode": options.view or view, "crop_pct": options.crop_pct, "source": "stated at import"},
        grid=first.shape[2:],
        dtype=options.dtype or dtype,
        rows=len(images),
        shard_rows=options.shard_rows,
        depth=first.shape[1],
        dataset=images.header() | {"teacher_class": list(range(outputs) if teacher_class is None else teacher_class)},
        versions={name: version(name) for name in ("tokenmix-maps", "h5py", "pillow")} | {"tree": str(tree)},
    )


def view_of(sizes: npt.NDArray[np.int32], crop_mode: str, crop_pct: float) -> npt.NDArray[np.float32]:
    """What the teacher saw of images of (width, height) px [B, 2], as (x0, y0, x1, y1) [B, 4] of the unit square.

    `center`: the middle square, `crop_pct` of the shorter side; `squash`: that share of either side.
    """
    sides = sizes.astype(np.float64)
    share = np.full(sides.shape, crop_pct, np.float64)
    if crop_mode == "center":
        share *= sides.min(axis=1, keepdims=True) / sides
    return np.concatenate([0.5 - share / 2, 0.5 + share / 2], axis=1).astype(np.float32)


class _PublishedRows:
    """The `RowSource` of an import: rows made from images, of which only the size is read, and maps."""

    def __init__(self, images: ImageList, paths: Sequence[Path], header: Header) -> None:
        self._images, self._paths, self._header = images, paths, header
        self._shape = (2, header.depth, *header.grid)

    def __call__(self, row_numbers: Iterator[range], progress: Progress) -> Iterator[Rows]:
        for rows in row_numbers:
            started = time.monotonic()
            batch = self.read(rows)
            progress.read_s += time.monotonic() - started
            yield Rows(rows.start, batch, _most_frequent_first(batch))

    def read(self, rows: range) -> RowBatch:
        """B rows; ImagesError where the file system fails."""
        found = [self._one(row) for row in rows]
        errors = [error for _, _, error in found]
        maps = np.zeros((len(rows), *self._shape), np.float32)
        for i, (values, _, error) in enumerate(found):
            if not error:
                maps[i] = values
        payload = self._payload(maps, errors)
        ok = np.array([not error for error in errors])
        sizes = np.array([size for _, size, _ in found], np.int32)
        view, made = np.zeros((len(rows), 4), np.float32), self._header.preprocessing
        view[ok] = view_of(sizes[ok], str(made["crop_mode"]), float(made["crop_pct"]))  # type: ignore[arg-type]
        return RowBatch(
            payload=payload,
            label=self._images.labels[rows.start : rows.stop],
            prediction=np.full(len(rows), -1, np.int32),
            size=sizes,
            view=view,
            status=np.where(ok, STATUS_OK, STATUS_UNREADABLE).astype(np.uint8),
            key=self._images.keys[rows.start : rows.stop],
            error=errors,
        )

    def _one(self, row: int) -> tuple[Array | None, tuple[int, int], str]:
        """Map, (width, height) of the image, and what is wrong."""
        size = (0, 0)
        try:
            with self._images.open(row) as file, Image.open(file) as image:
                size = image.size
        except Exception as error:
            self._refuse_outage(row, error)
            return None, size, f"image: {reason_of(error)}"
        try:
            values = read_tensor(self._paths[row])
        except FileNotFoundError:
            return None, size, f"map: expected {'/'.join(self._paths[row].parts[-2:])}, found no such file"
        except Exception as error:
            self._refuse_outage(row, error)
            return None, size, f"map: {error}"
        if values.shape != self._shape or values.dtype.kind != "f":
            return None, size, f"map: expected float {list(self._shape)}, found {values.dtype} {list(values.shape)}"
        return values, size, ""

    def _refuse_outage(self, row: int, error: Exception) -> None:
        if isinstance(error, OSError) and error.errno is not None:
            raise ImagesError(
                f"{self._images.keys[row]!r}: {error}; the file system failed, not the file: check the mount and run "
                "again"
            ) from error

    def _payload(self, maps: npt.NDArray[np.float32], errors: list[str]) -> dict[str, Array]:
        """Logits, classes and the unknown logsumexp of maps [B, 2, k, h, w]; adds to `errors` what no map can hold."""
        _, classes_field, sum_field = self._header.payload
        values, ids = maps[:, 0], maps[:, 1]
        with np.errstate(over="ignore"):
            values = values.astype(self._header.dtype)
        outputs = self._header.outputs
        ordered = np.sort(ids, axis=1)
        rules = (
            (np.isfinite(values), f"finite logits of type {self._header.dtype}"),
            ((ids >= 0) & (ids < outputs) & (ids == np.floor(ids)), f"class numbers below {outputs}"),
            (ordered[:, 1:] != ordered[:, :-1], "every class once per token"),
        )
        for holds, rule in rules:
            for row in np.flatnonzero(~holds.reshape(len(maps), -1).all(axis=1)).tolist():
                errors[row] = errors[row] or f"map: expected {rule}, found others"
        bad = np.array([bool(error) for error in errors])
        values[bad], ids[bad] = 0, 0
        if (values[:, 1:] > values[:, :-1]).any():
            order = np.argsort(-values, axis=1, kind="stable")
            values, ids = np.take_along_axis(values, order, 1), np.take_along_axis(ids, order, 1)
        unknown = np.where(bad[:, None, None], 0, np.full((len(maps), *sum_field.shape), np.nan))
        return {
            "topk_logit": values,
            "topk_class": ids.astype(classes_field.dtype),
            "logsumexp": unknown.astype(sum_field.dtype),
        }


def _most_frequent_first(rows: RowBatch) -> npt.NDArray[np.int32]:
    """The output that is the first of most tokens, int32 [B]; for the running accuracy only."""
    first = rows.payload["topk_class"][:, 0].reshape(len(rows.key), -1)
    return np.array([np.bincount(tokens).argmax() for tokens in first], np.int32)


def _first_map(tree: Path, paths: Sequence[Path]) -> Array:
    reason = "no such files"
    for path in paths:
        try:
            found = read_tensor(path)
        except FileNotFoundError:
            continue
        except ExtractError as error:
            reason = f"{path}: {error}"
            continue
        if found.ndim == 4 and len(found) == 2 and min(found.shape) > 0:
            return found
        reason = f"{path}: {list(found.shape)}"
    raise ImagesError(
        f"{tree}: expected maps [2, k, h, w] such as {paths[0]}, found none ({reason}); give the tree whose "
        "folders are the classes"
    )


def _sampled(paths: Sequence[Path]) -> str:
    """SHA-256 over a few files, so that a resume from another tree is refused."""
    digest = hashlib.sha256()
    for at in np.linspace(0, len(paths) - 1, min(SAMPLED_FILES, len(paths))).astype(int).tolist():
        digest.update(paths[at].read_bytes() if paths[at].is_file() else b"")
        digest.update(b"\0")
    return digest.hexdigest()
