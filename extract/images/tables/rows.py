"""Rows of a table as images: what Hugging Face's datasets and WebDataset's shards have in common."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from extract.errors import ImagesError
from extract.images.image_list import ImageList

# A class costs a name in the header and a number in memory; labels beyond are ids of something, and no classes.
MAX_CLASSES = 1_000_000


@dataclass(frozen=True)
class TableList(ImageList):
    """Images that lie in a container, each read by its row."""

    read: Callable[[int], bytes] = bytes

    def open(self, row: int) -> BinaryIO:
        """The encoded image in memory."""
        return io.BytesIO(self.read(row))


def require_label(where: str, label: object, classes: int = MAX_CLASSES) -> int:
    """The label itself; ImagesError, which says where, for anything but an index below `classes`."""
    if isinstance(label, int | np.integer) and 0 <= label < classes:
        return int(label)
    found = "none" if label is None else repr(label)
    missing = label is None or (isinstance(label, int) and label < 0)
    remedy = "a split for tests has no labels: give another one" if missing else "number the classes from 0"
    raise ImagesError(f"{where}: expected a class index from 0 to {classes - 1}, found {found}; {remedy}")


def number_names(labels: npt.NDArray[np.int32]) -> list[str]:
    """The names of classes that have none but their indices."""
    return [str(label) for label in range(int(labels.max(initial=0)) + 1)]
