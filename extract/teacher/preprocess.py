"""From an encoded image to the teacher's input, and the rectangle of the image which that input shows."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from timm.data import create_transform, resolve_data_config

from extract.errors import TeacherError
from extract.images.listing import ImageList
from store.format.header import Json

CROP_MODES = ("center", "squash", "border")
# Pillow's own limit against decompression bombs (89.5 Mpixel), applied to what a resize would allocate:
# a 20,000 x 1 image scaled to a short side of 448 would need 12 GB.
MAX_RESIZED_PIXELS = 89_478_485


@dataclass(frozen=True)
class Preprocessing:
    """timm's evaluation transform in numbers. Sizes are (height, width) in pixels; mean and std of [0, 1] RGB."""

    input_size: tuple[int, int]
    crop_mode: str
    crop_pct: float
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def of_model(cls, model: torch.nn.Module, **overrides: Any) -> Preprocessing:
        """The model's own configuration; `input_size`, `crop_mode` and `crop_pct` override it where given."""
        if overrides.get("input_size"):
            overrides["input_size"] = (3, *overrides["input_size"])
        config = resolve_data_config({k: v for k, v in overrides.items() if v is not None}, model=model)
        channels, *size = config["input_size"]
        if channels != 3:
            raise TeacherError(f"teacher: expected 3 input channels, found {channels}; give an RGB model")
        return cls(
            input_size=(int(size[0]), int(size[1])),
            crop_mode=config["crop_mode"],
            crop_pct=float(config["crop_pct"]),
            interpolation=config["interpolation"],
            mean=_rgb(config["mean"]),
            std=_rgb(config["std"]),
        )

    def header(self) -> dict[str, Json]:
        """The `preprocessing` field of the store's header."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) in pixels of the image after the resize, before the crop."""
        target_h, target_w = (int(side / self.crop_pct) for side in self.input_size)
        if self.crop_mode == "squash":
            return target_w, target_h
        if self.crop_mode == "center" and target_h == target_w:  # torchvision: truncates the longer side
            long_px = int(target_h * max(width, height) / min(width, height))
            return (target_h, long_px) if width <= height else (long_px, target_h)
        ratios = height / target_h, width / target_w
        ratio = max(ratios) if self.crop_mode == "border" else min(ratios)
        return round(width / ratio), round(height / ratio)

    def view(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The rectangle (x0, y0, x1, y1) of the image's unit square that the input covers.

        Reaches outside [0, 1] where the crop pads. Follows the integer arithmetic of torchvision's Resize and
        CenterCrop, and of timm's ResizeKeepRatio and CenterCropOrPad.
        """
        x0, x1 = _crop_interval(self.resized(width, height)[0], self.input_size[1])
        y0, y1 = _crop_interval(self.resized(width, height)[1], self.input_size[0])
        return x0, y0, x1, y1


def _rgb(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _crop_interval(resized_px: int, crop_px: int) -> tuple[float, float]:
    if crop_px > resized_px:  # padded: the smaller half comes first
        start = -((crop_px - resized_px) // 2)
    else:
        start = round((resized_px - crop_px) / 2.0)
    return start / resized_px, (start + crop_px) / resized_px


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
