"""The images that maps were extracted from, as `show` and `bench` want them: extract's `ImageList` is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from tokenmix_loader.store_access import MapStore, StoreError

Ints = npt.NDArray[np.integer[Any]]


class Images(Protocol):
    """N images in order."""

    @property
    def keys(self) -> Sequence[str]:
        """Path of each image relative to the root."""

    @property
    def labels(self) -> npt.NDArray[np.int32]:
        """Class index of each image, [N]."""

    @property
    def class_names(self) -> Sequence[str]:
        """Name of each class index."""

    def open(self, row: int) -> BinaryIO:
        """The encoded image of a row."""


def require_readable(store: MapStore, images: Ints) -> Ints:
    """The same images [N]; StoreError where there is none."""
    if len(images) == 0:
        raise StoreError(
            f"{store!r}: expected images that could be read at extraction, found none; repair them and run "
            "`tokenmix verify --retry-unreadable`"
        )
    return images
