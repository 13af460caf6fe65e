"""The images that maps were extracted from, as `show` and `bench` want them: extract's `ImageList` is one."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

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


def read_photograph(images: Images, row: int, least_px: int | None = None) -> tuple[Image.Image, tuple[int, int]]:
    """The image in RGB, and its size (width, height) in px; OSError with its key where it cannot be decoded.

    `least_px`: a JPEG may be decoded at a fraction of its size with sides no shorter, which is several times as fast.
    """
    with images.open(row) as file:
        data = file.read()
    try:
        with Image.open(io.BytesIO(data)) as encoded:
            size = encoded.size
            if least_px is not None:
                encoded.draft(None, (least_px, least_px))
            return encoded.convert("RGB"), size
    except Exception as error:  # Pillow raises many types for a damaged file
        known = isinstance(error, UnidentifiedImageError)
        found = "no image format that Pillow knows" if known else f"{type(error).__name__}: {error}"
        raise OSError(
            f"{images.keys[row]!r}: expected an image that can be decoded, as at extraction, found {found}; repair it"
        ) from error


def require_readable(store: MapStore, images: Ints) -> Ints:
    """The same images [N]; StoreError where there is none."""
    if len(images) == 0:
        raise StoreError(
            f"{store}: expected images that could be read at extraction, found none; repair them and run "
            "`tokenmix verify --retry-unreadable`"
        )
    return images
