"""The user's own training transform, with a record of where its pixels come from.

    traced = trace(create_transform(224, is_training=True, auto_augment=None))
    image, affine = traced(pil_image)

Nothing about the transform is imitated: each step runs as it is, and its geometry is read off what it did. So
images and random streams are those of the untraced transform, bit by bit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from timm.data import random_erasing as timm_erasing
from timm.data import transforms as timm_transforms
from torchvision import transforms as tv
from torchvision.transforms.functional import get_dimensions

Matrix = npt.NDArray[np.float64]
Transform = Callable[[Any], Any]
# What a step made of an image, and where in the step's input that lies: 3 x 3, on unit squares.
Traced = tuple[Any, Matrix]

PIXEL_ONLY: tuple[type, ...] = (
    tv.ToTensor, tv.PILToTensor, tv.ConvertImageDtype, tv.Normalize, tv.RandomErasing,
    tv.ColorJitter, tv.Grayscale, tv.RandomGrayscale, tv.GaussianBlur, tv.RandomInvert, tv.RandomPosterize,
    tv.RandomSolarize, tv.RandomAdjustSharpness, tv.RandomAutocontrast, tv.RandomEqualize,
    timm_transforms.ToTensor, timm_transforms.ToNumpy, timm_transforms.MaybeToTensor,
    timm_transforms.MaybePILToTensor, timm_erasing.RandomErasing,
)  # fmt: skip


class UntraceableTransform(TypeError):  # noqa: N818 -- says what the transform is
    """A transform has a step whose geometry cannot be recorded."""


class TracedTransform:
    """A transform that also tells where each pixel of its result comes from; made by `trace`."""

    def __init__(self, steps: list[tuple[Callable[[Any, Any], Traced], Transform]]) -> None:
        self._steps = steps

    def __call__(self, image: Any) -> tuple[Any, Matrix]:
        """The transformed image and its affine, float64 [2, 3]: `(x, y) = affine @ (u, v, 1)`.

        (u, v) is a point of the result's unit square, (x, y) the same point in the unit square of `image`.
        """
        to_image = np.eye(3)
        for record, step in self._steps:
            image, to_input = record(step, image)
            to_image = to_image @ to_input
        return image, to_image[:2]


def trace(transform: Transform) -> TracedTransform:
    """Wrap a torchvision (v1) or timm transform; the object itself stays as it is and stays in use.

    Known are Compose (nested too), Resize, ResizeKeepRatio, CenterCrop, RandomResizedCrop, timm's
    RandomResizedCropAndInterpolation, both flips and steps that change pixels where they are (`PIXEL_ONLY`,
    also within RandomApply). Raises UntraceableTransform naming any other step.
    """
    return TracedTransform([(_recorder(step, path), step) for path, step in _flatten(transform, "transform")])


def _flatten(transform: Any, path: str) -> list[tuple[str, Transform]]:
    if type(transform) is not tv.Compose:
        return [(path, transform)]
    nested = [_flatten(step, f"{path}.transforms[{i}]") for i, step in enumerate(transform.transforms)]
    return [step for steps in nested for step in steps]


def _recorder(step: Transform, path: str) -> Callable[[Any, Any], Traced]:
    if _is_pixel_only(step):
        return _keep_in_place
    # By exact type: a subclass may do anything.
    if type(step) in _RECORDERS:
        return _RECORDERS[type(step)]
    known = ", ".join(sorted({kind.__name__ for kind in (tv.Compose, *_RECORDERS, *PIXEL_ONLY)}))
    raise UntraceableTransform(
        f"{path}: expected a step whose geometry can be recorded, found "
        f"{type(step).__module__}.{type(step).__qualname__}; leave it out or use one of: {known} "
        "(a tuple of stages: join them with Compose)"
    )


def _is_pixel_only(step: Any) -> bool:
    if type(step) is tv.RandomApply:
        return all(_is_pixel_only(inner) for inner in step.transforms)
    return type(step) in PIXEL_ONLY


def _keep_in_place(step: Transform, image: Any) -> Traced:
    return step(image), np.eye(3)


def _record_random_crop(step: Any, image: Any) -> Traced:
    boxes = []

    def remember(*args: Any) -> Any:
        boxes.append(step.get_params(*args))
        return boxes[-1]

    spy = copy.copy(step)  # the user's object, and other threads that use it, see nothing of this
    spy.get_params = remember
    result = spy(image)
    top, left, height, width = boxes[0]
    return result, _crop(image, left, top, width, height)


def _record_center_crop(step: Any, image: Any) -> Traced:
    _, height, width = get_dimensions(image)
    crop_height, crop_width = step.size
    left, top = _centre_offset(width, crop_width), _centre_offset(height, crop_height)
    return step(image), _crop(image, left, top, crop_width, crop_height)


def _centre_offset(size: int, crop: int) -> int:
    """Where torchvision's centre crop begins; negative where it pads."""
    return round((size - crop) / 2.0) if crop <= size else -((crop - size) // 2)


def _crop(image: Any, left: int, top: int, width: int, height: int) -> Matrix:
    _, image_height, image_width = get_dimensions(image)
    scale_x, scale_y = width / image_width, height / image_height
    return np.array([[scale_x, 0, left / image_width], [0, scale_y, top / image_height], [0, 0, 1]])


def _record_horizontal_flip(step: Transform, image: Any) -> Traced:
    return _record_flip(step, image, np.array([[-1.0, 0, 1], [0, 1, 0], [0, 0, 1]]))


def _record_vertical_flip(step: Transform, image: Any) -> Traced:
    return _record_flip(step, image, np.array([[1.0, 0, 0], [0, -1, 1], [0, 0, 1]]))


def _record_flip(step: Transform, image: Any, flipped: Matrix) -> Traced:
    result = step(image)
    # A flip that does not happen returns the very object that it was given.
    return result, np.eye(3) if result is image else flipped


_RECORDERS: dict[type, Callable[[Any, Any], Traced]] = {
    tv.Resize: _keep_in_place,
    timm_transforms.ResizeKeepRatio: _keep_in_place,
    tv.CenterCrop: _record_center_crop,
    tv.RandomResizedCrop: _record_random_crop,
    timm_transforms.RandomResizedCropAndInterpolation: _record_random_crop,
    tv.RandomHorizontalFlip: _record_horizontal_flip,
    tv.RandomVerticalFlip: _record_vertical_flip,
}
