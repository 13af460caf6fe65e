"""The user's own training transform, with a record of where its pixels come from.

    traced = trace(create_transform(224, is_training=True, auto_augment=None))
    image, affine = traced(pil_image)

Nothing about the transform is imitated: each step runs as it is, and its geometry is read off what it did. So
images and random streams are those of the untraced transform, bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from timm.data import random_erasing as timm_erasing
from timm.data import transforms as timm_transforms
from torchvision import transforms as tv
from torchvision.transforms.functional import get_dimensions

from tokenmix_loader.affine import FLIP_X, FLIP_Y, IDENTITY, WHOLE, Affine, between_unit_squares, clip, compose
from tokenmix_loader.augment import RECORDERS, Augmented, twin, unknown_operations

Array = npt.NDArray[np.float64]
Transform = Callable[[Any], Any]

PIXEL_ONLY: tuple[type, ...] = (
    tv.ToTensor, tv.PILToTensor, tv.ConvertImageDtype, tv.Normalize, tv.RandomErasing,
    tv.ColorJitter, tv.Grayscale, tv.RandomGrayscale, tv.GaussianBlur, tv.RandomInvert, tv.RandomPosterize,
    tv.RandomSolarize, tv.RandomAdjustSharpness, tv.RandomAutocontrast, tv.RandomEqualize,
    timm_transforms.ToTensor, timm_transforms.ToNumpy, timm_transforms.MaybeToTensor,
    timm_transforms.MaybePILToTensor, timm_erasing.RandomErasing,
)  # fmt: skip


class UntraceableTransform(TypeError):  # noqa: N818 -- says what the transform is
    """A transform has a step whose geometry cannot be recorded."""


class View(NamedTuple):
    """A transformed image and where it comes from, as `align` takes it.

    `affine` float64 [2, 3] maps the result's unit square to that of the input, `(x, y) = affine @ (u, v, 1)`.
    `bounds` float64 [4] is a box (x0, y0, x1, y1) in the input: nothing outside of it is visible. It is what
    the crop left over, so it matters where something turns or moves the crop and fills up with a colour.
    """

    image: Any
    affine: Array
    bounds: Array


class TracedTransform:
    """A transform that also tells where each pixel of its result comes from; made by `trace`."""

    def __init__(self, steps: list[tuple[Callable[[Any, Any], Augmented], Transform]]) -> None:
        self._steps = steps

    def __call__(self, image: Any) -> tuple[Any, Array]:
        """The transformed image and its affine, see `View`."""
        return self.view(image)[:2]

    def view(self, image: Any) -> View:
        """The transformed image, its affine and its bounds."""
        to_image, bounds = IDENTITY, WHOLE
        for record, step in self._steps:
            image, moves = record(step, image)
            for to_input in moves:
                if record in _FILLING:
                    bounds = clip(bounds, to_image)
                to_image = compose(to_image, to_input)
        return View(image, np.array(to_image).reshape(2, 3), np.array(bounds))


def trace(transform: Transform) -> TracedTransform:
    """Wrap a torchvision (v1) or timm transform; the object itself stays as it is and stays in use.

    Known are everything that timm's create_transform makes for training except AugMix, and of torchvision
    Compose, Resize, CenterCrop, RandomResizedCrop, flips, RandomRotation, RandomAffine, RandAugment,
    TrivialAugmentWide, AutoAugment and steps that change pixels where they are (`PIXEL_ONLY`, also within
    RandomApply). Where timm asks Pillow to posterize to 0 bits, which would raise, 1 bit is kept.

    Raises UntraceableTransform naming any other step.
    """
    return TracedTransform([(_recorder(step, path), step) for path, step in _flatten(transform, "transform")])


def _flatten(transform: Any, path: str) -> list[tuple[str, Transform]]:
    if type(transform) is not tv.Compose:
        return [(path, transform)]
    nested = [_flatten(step, f"{path}.transforms[{i}]") for i, step in enumerate(transform.transforms)]
    return [step for steps in nested for step in steps]


def _recorder(step: Transform, path: str) -> Callable[[Any, Any], Augmented]:
    if _is_pixel_only(step):
        return _keep_in_place
    # By exact type: a subclass may do anything.
    if type(step) in _RECORDERS and not unknown_operations(step):
        return _RECORDERS[type(step)]
    known = ", ".join(sorted({kind.__name__ for kind in (tv.Compose, *_RECORDERS, *PIXEL_ONLY)}))
    found = f"{type(step).__module__}.{type(step).__qualname__}"
    raise UntraceableTransform(
        f"{path}: expected a step whose geometry can be recorded, found "
        f"{' with '.join([found, *unknown_operations(step)[:1]])}; leave it out or use one of: {known} "
        "(a tuple of stages: join them with Compose)"
    )


def _is_pixel_only(step: Any) -> bool:
    if type(step) is tv.RandomApply:
        return all(_is_pixel_only(inner) for inner in step.transforms)
    return type(step) in PIXEL_ONLY


def _keep_in_place(step: Transform, image: Any) -> Augmented:
    return step(image), []


def _record_random_crop(step: Any, image: Any) -> Augmented:
    result, (top, left, height, width) = _with_params(step, image)
    return result, [_crop(image, left, top, width, height)]


def _record_crop_or_pad(step: Any, image: Any) -> Augmented:
    result, (top, left) = _with_params(step, image)
    return result, [_crop(image, left, top, *step.size[::-1])]


def _with_params(step: Any, image: Any) -> tuple[Any, Any]:
    """The step's result, and what its `get_params` drew for it."""
    drawn = []

    def remember(*args: Any) -> Any:
        drawn.append(step.get_params(*args))
        return drawn[-1]

    spy = twin(step)
    spy.get_params = remember
    return spy(image), drawn[0]


def _record_center_crop(step: Any, image: Any) -> Augmented:
    width, height = _size(image)
    crop_height, crop_width = step.size
    left, top = _centre_offset(width, crop_width), _centre_offset(height, crop_height)
    return step(image), [_crop(image, left, top, crop_width, crop_height)]


def _centre_offset(size: int, crop: int) -> int:
    """Where torchvision's centre crop begins; negative where it pads."""
    return round((size - crop) / 2.0) if crop <= size else -((crop - size) // 2)


def _crop(image: Any, left: int, top: int, width: int, height: int) -> Affine:
    image_width, image_height = _size(image)
    return between_unit_squares((1, 0, left, 0, 1, top), (width, height), (image_width, image_height))


def _size(image: Any) -> tuple[int, int]:
    """Width and height of an image or a tensor."""
    if isinstance(image, Image.Image):
        return image.size
    _, height, width = get_dimensions(image)
    return width, height


def _record_horizontal_flip(step: Transform, image: Any) -> Augmented:
    return _record_flip(step, image, FLIP_X)


def _record_vertical_flip(step: Transform, image: Any) -> Augmented:
    return _record_flip(step, image, FLIP_Y)


def _record_flip(step: Transform, image: Any, flipped: Affine) -> Augmented:
    result = step(image)
    # A flip that does not happen returns the very object that it was given.
    return result, [] if result is image else [flipped]


_RECORDERS: dict[type, Callable[[Any, Any], Augmented]] = {
    tv.Resize: _keep_in_place,
    timm_transforms.ResizeKeepRatio: _keep_in_place,
    tv.CenterCrop: _record_center_crop,
    timm_transforms.CenterCropOrPad: _record_center_crop,
    timm_transforms.RandomCropOrPad: _record_crop_or_pad,
    tv.RandomResizedCrop: _record_random_crop,
    timm_transforms.RandomResizedCropAndInterpolation: _record_random_crop,
    tv.RandomHorizontalFlip: _record_horizontal_flip,
    tv.RandomVerticalFlip: _record_vertical_flip,
    **RECORDERS,
}
# What can show more than the image before it had, filled up with a colour; the others cut or keep what there is.
_FILLING = frozenset((*RECORDERS.values(), _record_center_crop, _record_crop_or_pad))
