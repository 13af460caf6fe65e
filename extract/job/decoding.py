"""From an encoded image to the teacher's input, in the worker processes of a data loader."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from timm.data import create_transform

from extract.images.image_list import ImageList
from extract.teacher.preprocess import Preprocessing

# Pillow's own limit against decompression bombs (89.5 Mpixel), applied to what a resize would allocate:
# a 20,000 x 1 image scaled to a short side of 448 would need 12 GB.
MAX_RESIZED_PIXELS = 89_478_485


def reason_of(error: Exception) -> str:
    """Why an image cannot be decoded: the same text in every run, for it is stored."""
    if isinstance(error, UnidentifiedImageError):
        return "no image format that Pillow knows"
    return re.sub(r" at 0x[0-9a-f]+", "", f"{type(error).__name__}: {error}")[:200]


class Sample(NamedTuple):
    """One decoded row. `error`: the image cannot be decoded. `fault`: the file system, not the image, failed."""

    row: int
    pixels: torch.Tensor | None  # uint8 [3, H, W]
    size: tuple[int, int] = (0, 0)  # width, height of the decoded image
    view: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    error: str = ""
    fault: str = ""


class Batch(NamedTuple):
    """B rows of one shard, in order; unreadable images are black and have an error."""

    rows: list[int]
    pixels: torch.Tensor  # uint8 [B, 3, H, W]
    size: npt.NDArray[np.int32]  # [B, 2]
    view: npt.NDArray[np.float32]  # [B, 4]
    error: list[str]
    fault: str


class Decoder(torch.utils.data.Dataset[Sample]):
    """Row -> Sample; runs in the loader's worker processes."""

    def __init__(self, images: ImageList, preprocessing: Preprocessing):
        self.images = images
        self.preprocessing = preprocessing
        # uint8 to the device, a quarter of the bytes; the teacher normalises there
        self.transform = create_transform(
            preprocessing.input_size,
            crop_mode=preprocessing.crop_mode,
            crop_pct=preprocessing.crop_pct,
            interpolation=preprocessing.interpolation,
            mean=preprocessing.mean,
            std=preprocessing.std,
            normalize=False,
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> Sample:
        try:
            with self.images.open(row) as file:
                data = file.read()
        except OSError as error:
            return Sample(row, None, fault=f"{self.images.root}: {self.images.keys[row]!r}: {error}")
        try:
            return self.decode(row, data)
        except Exception as error:
            return Sample(row, None, error=reason_of(error))

    def decode(self, row: int, data: bytes) -> Sample:
        """Decode and transform one encoded image (no EXIF rotation, as in training)."""
        with Image.open(io.BytesIO(data)) as encoded:
            width, height = encoded.size
            resized_w, resized_h = self.preprocessing.resized(width, height)
            if resized_w * resized_h > MAX_RESIZED_PIXELS or min(resized_w, resized_h) < 1:
                raise ValueError(
                    f"{width} x {height} pixels would be resized to {resized_w} x {resized_h}; use --crop-mode squash"
                )
            image = encoded.convert("RGB")
        return Sample(row, self.transform(image), (width, height), self.preprocessing.view(width, height))

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Stack samples; B is the number of samples, readable or not, so batches are the same in every run."""
        black = torch.zeros(3, *self.preprocessing.input_size, dtype=torch.uint8)
        return Batch(
            rows=[s.row for s in samples],
            pixels=torch.stack([black if s.pixels is None else s.pixels for s in samples]),
            size=np.array([s.size for s in samples], np.int32),
            view=np.array([s.view for s in samples], np.float32),
            error=[s.error for s in samples],
            fault=next((s.fault for s in samples if s.fault), ""),
        )
