"""Crops, pads, flips and resizes of timm and torchvision v1, and those of v2 that are like them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from timm.data import transforms as timm_transforms
from torchvision import transforms as tv
from torchvision.transforms import functional, v2

from tokenmix_loader.tracing.affine import FLIP_X, FLIP_Y, Affine, crop_affine, pad_affine, size_of
from tokenmix_loader.tracing.recorder import Recorder, Step, record, with_globals, with_replaced


def _whole_image(step: Step) -> Step:
    """The result shows the whole image, whatever its size: the same unit square."""
    return step


def _recording_random_crop(step: Any) -> Step:
    draw = type(step).get_params

    def get_params(_: Any, image: Any, *args: Any) -> Any:
        top, left, height, width = drawn = draw(image, *args)
        record(crop_affine(image, left, top, width, height))
        return drawn

    return with_replaced(step, get_params=get_params)


def _recording_crop_or_pad(step: Any) -> Step:
    draw = type(step).get_params

    def get_params(self: Any, image: Any, *args: Any) -> Any:
        top, left = drawn = draw(image, *args)
        record(crop_affine(image, left, top, *self.size[::-1]), filling=True)
        return drawn

    return with_replaced(step, get_params=get_params)


def _recording_centre_crop(step: Any) -> Step:
    def crop(image: Any) -> Any:
        width, height = size_of(image)
        crop_height, crop_width = step.size
        left, top = _centre_offset(width, crop_width), _centre_offset(height, crop_height)
        record(crop_affine(image, left, top, crop_width, crop_height), filling=True)
        return step(image)

    return crop


def _centre_offset(size: int, crop: int) -> int:
    """Where torchvision's centre crop begins; negative where it pads.

    The teacher's preprocessing rounds in the same way, in another package: a test compares the two.
    """
    return round((size - crop) / 2.0) if crop <= size else -((crop - size) // 2)


def _recording_flip(move: Affine) -> Recorder:
    def recorder(step: Step) -> Step:
        def flip(image: Any) -> Any:
            result = step(image)
            # A flip that does not happen returns the very object that it was given.
            if result is not image:
                record(move)
            return result

        return flip

    return recorder


def _pad(image: Any, padding: Any, *args: Any, **kwargs: Any) -> Any:
    padded = functional.pad(image, padding, *args, **kwargs)
    record(pad_affine(image, padding, padded), filling=True)
    return padded


def _crop(image: Any, top: int, left: int, height: int, width: int) -> Any:
    record(crop_affine(image, left, top, width, height))
    return functional.crop(image, top, left, height, width)


_FUNCTIONAL = SimpleNamespace(**vars(functional) | {"pad": _pad, "crop": _crop})


def _recording_pads_and_crops(method: str) -> Recorder:
    """For steps whose `method` calls torchvision's functions `pad` and `crop` by the name F, as often as it likes.

    What a border is filled with does not matter: it counts as no part of the image, even where it is mirrored.
    """

    def recorder(step: Any) -> Step:
        return with_replaced(step, **{method: with_globals(getattr(type(step), method), F=_FUNCTIONAL)})

    return recorder


RECORDERS: dict[type, Recorder] = {
    **dict.fromkeys((tv.Resize, timm_transforms.ResizeKeepRatio), _whole_image),
    **dict.fromkeys((v2.Resize, v2.RandomResize, v2.RandomShortestSize, v2.ScaleJitter), _whole_image),
    **dict.fromkeys((tv.CenterCrop, v2.CenterCrop, timm_transforms.CenterCropOrPad), _recording_centre_crop),
    timm_transforms.RandomCropOrPad: _recording_crop_or_pad,
    tv.RandomResizedCrop: _recording_random_crop,
    timm_transforms.RandomResizedCropAndInterpolation: _recording_random_crop,
    **dict.fromkeys((tv.RandomCrop, tv.Pad, timm_transforms.TrimBorder), _recording_pads_and_crops("forward")),
    timm_transforms.RandomPad: _recording_pads_and_crops("__call__"),
    tv.RandomHorizontalFlip: _recording_flip(FLIP_X),
    tv.RandomVerticalFlip: _recording_flip(FLIP_Y),
}
