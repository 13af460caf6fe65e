"""From labels to the teacher's outputs, and from its maps to rows of the store."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from extract.errors import TeacherError
from extract.images.image_list import ImageList
from extract.job.decoding import Batch
from extract.teacher.protocol import Maps
from store import Header, RowBatch
from store.spec import STATUS_OK, STATUS_UNREADABLE

Array = npt.NDArray[Any]


def outputs_of(header: Header, labels: npt.NDArray[np.int32]) -> torch.Tensor:
    """The outputs of the teacher that show these classes, int64 [B]; zeros for maps that need no classes."""
    if not len(header.teacher_class):
        return torch.zeros(len(labels), dtype=torch.int64)
    return torch.from_numpy(header.teacher_class[labels])


def row_batch(images: ImageList, batch: Batch, maps: Maps, header: Header) -> RowBatch:
    """What is stored of a batch. An unreadable image has a zero payload, prediction -1 and status 1.

    Raises TeacherError for a value that the store's dtype cannot hold, naming the image.
    """
    keys = [images.keys[row] for row in batch.rows]
    readable = np.array([not error for error in batch.error])
    payload: dict[str, Array] = {}
    for field in header.maps:
        values = maps.payload[field.name].numpy()
        mask = readable.reshape(-1, *[1] * len(field.shape))
        payload[field.name] = np.where(mask, values, values.dtype.type(0)).astype(field.dtype, copy=False)
        _check_range(payload[field.name], keys, field.name, header.dtype)
    return RowBatch(
        payload=payload,
        label=images.labels[batch.rows],
        prediction=np.where(readable, maps.prediction.numpy(), -1).astype(np.int32),
        size=batch.size,
        view=batch.view,
        status=np.where(readable, STATUS_OK, STATUS_UNREADABLE).astype(np.uint8),
        key=keys,
        error=batch.error,
        orientation=batch.orientation,
        fingerprint=batch.fingerprint,
    )


def _check_range(values: Array, keys: list[str], name: str, dtype: str) -> None:
    most = np.finfo("float16" if dtype == "uint8" else dtype).max  # uint8: the offset is float16
    finite = np.isfinite(values) & (np.abs(values) <= most)
    if finite.all():
        return
    row = int(np.flatnonzero(~finite.reshape(len(finite), -1).all(1))[0])
    value = values[row][~finite[row]][0]
    remedy = "--amp none, or check the teacher's weights" if np.isnan(value) else "--dtype float32 or --amp none"
    raise TeacherError(
        f"{keys[row]!r}: expected a finite {name} of at most {most:g} ({dtype}), found {value:g}; use {remedy}"
    )
