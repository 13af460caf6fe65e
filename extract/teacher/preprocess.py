"""The teacher's input in numbers: its size, how an image is brought to it, and which part of the image it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from timm.data import resolve_data_config

from extract.errors import TeacherError
from extract.teacher.tokens.centres import WHOLE
from store.spec import Json


@dataclass(frozen=True)
class Preprocessing:
    """timm's evaluation transform in numbers. Sizes are (height, width) in pixels; mean and std of [0, 1] RGB.

    `token_view`: what the teacher's tokens cover, (x0, y0, x1, y1) in the unit square of its input; see
    tokens/centres.py.
    """

    input_size: tuple[int, int]
    crop_mode: str
    crop_pct: float
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    token_view: Sequence[float] = WHOLE

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
        """The `preprocessing` field of the store's header; without `token_view` where that is the whole input."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        if tuple(self.token_view) == WHOLE:
            del values["token_view"]
        return values

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
        """The rectangle (x0, y0, x1, y1) of the image's unit square that the teacher's tokens cover.

        Reaches outside [0, 1] where the crop pads or tokens look there. Follows the integer arithmetic of torchvision's
        Resize and CenterCrop, and of timm's ResizeKeepRatio and CenterCropOrPad.
        """
        x0, x1 = _crop_interval(self.resized(width, height)[0], self.input_size[1])
        y0, y1 = _crop_interval(self.resized(width, height)[1], self.input_size[0])
        u0, v0, u1, v1 = self.token_view
        return _between(x0, x1, u0), _between(y0, y1, v0), _between(x0, x1, u1), _between(y0, y1, v1)


class Normaliser:
    """From pixels to a model's input, on the model's device."""

    def __init__(self, preprocessing: Preprocessing, device: torch.device):
        self._device = device
        self._mean = torch.tensor(preprocessing.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocessing.std, device=device).view(1, 3, 1, 1)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 [B, 3, H, W] on any device -> float32 on the model's."""
        images = pixels.to(self._device, non_blocking=True).float().div_(255).sub_(self._mean).div_(self._std)
        return images.contiguous(memory_format=torch.channels_last)


def _rgb(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _between(start: float, end: float, share: float) -> float:
    return (1 - share) * start + share * end


def _crop_interval(resized_px: int, crop_px: int) -> tuple[float, float]:
    # the rounding of a central crop stands in tokenmix_loader/tracing too: the two packages do not import each other
    if crop_px > resized_px:  # padded: the smaller half comes first
        start = -((crop_px - resized_px) // 2)
    else:
        start = round((resized_px - crop_px) / 2.0)
    return start / resized_px, (start + crop_px) / resized_px
