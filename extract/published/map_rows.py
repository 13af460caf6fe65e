"""From published maps, one file per image, to rows of a store."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from extract.errors import ExtractError, ImagesError
from extract.images.image_list import ImageList
from extract.images.orientation import orientation_of
from extract.job.decoding import reason_of
from extract.job.fill import Rows
from extract.job.processes.in_hand import InHand, Waiting
from extract.job.processes.signals import stoppable
from extract.job.progress import Progress
from extract.published.torch_file import read_tensor
from store import Header, RowBatch
from store.fingerprint import fingerprint_of
from store.spec import STATUS_OK, STATUS_UNREADABLE

Array = npt.NDArray[Any]


class MapRows:
    """The `RowSource` of an import; the images are opened, not decoded."""

    def __init__(self, images: ImageList, paths: Sequence[Path], header: Header) -> None:
        """`paths`: of each image the file of its map."""
        self._images, self._paths, self._header = images, paths, header
        self._shape = (2, header.depth, *header.grid)
        self._in_hand = InHand(images.keys, processes=0)

    def __call__(self, row_numbers: Iterator[range], progress: Progress) -> Iterator[Rows]:
        """Rows batch by batch; ImagesError where the file system fails."""
        for rows in row_numbers:
            started = time.monotonic()
            with stoppable(self._in_hand.__str__):
                batch = self._read(rows)
            progress.read_s += time.monotonic() - started
            yield Rows(rows.start, batch, _most_frequent_first(batch))

    def in_hand(self) -> Waiting | None:
        """As `RowSource.in_hand`."""
        return self._in_hand.longest()

    def _read(self, rows: range) -> RowBatch:
        maps = np.zeros((len(rows), *self._shape), np.float32)
        sizes = np.zeros((len(rows), 2), np.int32)
        orientation, fingerprint = np.zeros(len(rows), np.uint8), np.zeros(len(rows), np.uint64)
        errors = [""] * len(rows)
        for i, row in enumerate(rows):
            self._in_hand.take(row)
            try:
                sizes[i], orientation[i], fingerprint[i] = self._look_at_image(row)
                maps[i] = self._map(row)
            except _RowFault as fault:
                errors[i] = str(fault)
        self._in_hand.put_down()
        payload = _payload(maps, errors, self._header)
        ok = np.array([not error for error in errors])
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
            orientation=orientation,
            fingerprint=fingerprint,
        )

    def _look_at_image(self, row: int) -> tuple[tuple[int, int], int, int]:
        """Its size in px, orientation and fingerprint."""
        try:
            with self._images.open(row) as file:
                fingerprint = fingerprint_of(file)
                file.seek(0)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # as in `Decoder.decode`
                    with Image.open(file) as image:
                        return image.size, orientation_of(image), fingerprint
        except Exception as error:  # Pillow raises many types for a damaged file
            self._refuse_outage(row, error)
            raise _RowFault(f"image: {reason_of(error)}") from error

    def _map(self, row: int) -> Array:
        try:
            values = read_tensor(self._paths[row])
        except FileNotFoundError as error:
            name = "/".join(self._paths[row].parts[-2:])
            raise _RowFault(f"map: expected {name}, found no such file") from error
        except (OSError, ExtractError) as error:
            self._refuse_outage(row, error)
            raise _RowFault(f"map: {error}") from error
        if values.shape != self._shape or values.dtype.kind != "f":
            raise _RowFault(f"map: expected float {list(self._shape)}, found {values.dtype} {list(values.shape)}")
        return values

    def _refuse_outage(self, row: int, error: Exception) -> None:
        if isinstance(error, MemoryError):
            raise ImagesError(f"{self._images.keys[row]!r}: memory was short, which is no fault of the file") from error
        if isinstance(error, OSError) and error.errno is not None:
            raise ImagesError(
                f"{self._images.keys[row]!r}: {error}; the file system failed, not the file: check the mount and run "
                "again"
            ) from error


class _RowFault(Exception):  # noqa: N818 - it does not leave this module
    """Why there is no map for an image."""


def view_of(sizes: npt.NDArray[np.int32], crop_mode: str, crop_pct: float) -> npt.NDArray[np.float32]:
    """What the teacher saw of images of (width, height) px [B, 2], as (x0, y0, x1, y1) [B, 4] of the unit square.

    `center`: the middle square, `crop_pct` of the shorter side; `squash`: that share of either side.
    """
    sides = sizes.astype(np.float64)
    share = np.full(sides.shape, crop_pct, np.float64)
    if crop_mode == "center":
        share *= sides.min(axis=1, keepdims=True) / sides
    return np.concatenate([0.5 - share / 2, 0.5 + share / 2], axis=1).astype(np.float32)


def _payload(maps: npt.NDArray[np.float32], errors: list[str], header: Header) -> dict[str, Array]:
    """Logits, their outputs and the unknown logsumexp of maps [B, 2, k, h, w]; rows with an error are zero.

    Adds to `errors` what no map can hold.
    """
    _, class_field, sum_field = header.payload
    logits, classes = maps[:, 0], maps[:, 1]
    with np.errstate(over="ignore"):
        logits = logits.astype(header.dtype)
    _check_values(logits, classes, header, errors)
    bad = np.array([bool(error) for error in errors])
    logits[bad], classes[bad] = 0, 0
    if (logits[:, 1:] > logits[:, :-1]).any():
        order = np.argsort(-logits, axis=1, kind="stable")
        logits, classes = np.take_along_axis(logits, order, 1), np.take_along_axis(classes, order, 1)
    unknown = np.where(bad[:, None, None], 0, np.full((len(maps), *sum_field.shape), np.nan))
    return {
        "topk_logit": logits,
        "topk_class": classes.astype(class_field.dtype),
        "logsumexp": unknown.astype(sum_field.dtype),
    }


def _check_values(logits: Array, classes: Array, header: Header, errors: list[str]) -> None:
    ordered = np.sort(classes, axis=1)
    known = (classes >= 0) & (classes < header.outputs) & (classes == np.floor(classes))
    rules = (
        (np.isfinite(logits), f"finite logits of type {header.dtype}"),
        (known, f"class numbers below {header.outputs} (of a teacher of more: --class-map)"),
        (ordered[:, 1:] != ordered[:, :-1], "every class once per token"),
    )
    for holds, rule in rules:
        for row in np.flatnonzero(~holds.reshape(len(holds), -1).all(axis=1)).tolist():
            errors[row] = errors[row] or f"map: expected {rule}, found others"


def _most_frequent_first(rows: RowBatch) -> npt.NDArray[np.int32]:
    """The output that is the first of most tokens, int32 [B]; for the running accuracy only."""
    first = rows.payload["topk_class"][:, 0].reshape(len(rows.key), -1)
    return np.array([np.bincount(tokens).argmax() for tokens in first], np.int32)
