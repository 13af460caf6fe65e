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
import torch
from timm.data import random_erasing as timm_erasing
from timm.data import transforms as timm_transforms
from torchvision import transforms as tv
from torchvision.transforms import v2

from tokenmix_loader.tracing.affine import FLIP_X, FLIP_Y, Affine, crop_of, size_of
from tokenmix_loader.tracing.albumentation import MOVES, is_albumentations, spy_on_albumentations, unknown_transforms
from tokenmix_loader.tracing.policies import POLICIES, unknown_operations
from tokenmix_loader.tracing.recorder import follow, note, spy_on
from tokenmix_loader.tracing.torchvision_v2 import V2_PIXEL_ONLY, V2_SPIES, V2_WHOLE

Array = npt.NDArray[np.float64]
Transform = Callable[[Any], Any]

PIXEL_ONLY: tuple[type, ...] = (
    tv.ToTensor, tv.PILToTensor, tv.ConvertImageDtype, tv.Normalize, tv.RandomErasing,
    tv.ColorJitter, tv.Grayscale, tv.RandomGrayscale, tv.GaussianBlur, tv.RandomInvert, tv.RandomPosterize,
    tv.RandomSolarize, tv.RandomAdjustSharpness, tv.RandomAutocontrast, tv.RandomEqualize,
    timm_transforms.ToTensor, timm_transforms.ToNumpy, timm_transforms.MaybeToTensor,
    timm_transforms.MaybePILToTensor, timm_erasing.RandomErasing, *V2_PIXEL_ONLY,
)  # fmt: skip
_COMPOSED = (tv.Compose, v2.Compose)


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
    """A transform that also tells where each pixel of its result comes from; see `trace`."""

    def __init__(self, transform: Transform) -> None:
        self._transform = transform
        self._steps = [_spy(step, path) for path, step in _flatten(transform, "transform")]

    def __reduce__(self) -> tuple[type[TracedTransform], tuple[Transform]]:
        """As the transform itself: spies are made anew."""
        return TracedTransform, (self._transform,)

    def __call__(self, image: Any) -> tuple[Any, Array]:
        """The transformed image and its affine, see `View`."""
        return self.view(image)[:2]

    def view(self, image: Any) -> View:
        """The transformed image, its affine and its bounds."""
        image, place = self.placed(image)
        return View(image, place[:6].reshape(2, 3), place[6:])

    def placed(self, image: Any) -> tuple[Any, Array]:
        """The transformed image, and affine and bounds in one float64 [10], which costs least."""
        image, affine, bounds = follow(self._steps, image)
        return image, np.array(affine + bounds)


def trace(transform: Transform) -> TracedTransform:
    """Wrap a transform of timm, torchvision (v1 or v2) or Albumentations, which stays as it is and stays in use.

    Known are everything that timm's create_transform makes for training except AugMix, and of torchvision
    Compose, Resize, CenterCrop, RandomResizedCrop, flips, RandomRotation, RandomAffine, RandAugment,
    TrivialAugmentWide, AutoAugment and steps that change pixels where they are (`PIXEL_ONLY`, also within
    RandomApply). Of Albumentations: Compose of image-only transforms and of `albumentation.MOVES`; it gets an array,
    as it wants. Where timm asks Pillow to posterize to 0 bits, which would raise, 1 bit is kept.

    Raises UntraceableTransform naming any other step.
    """
    return TracedTransform(transform)


def _flatten(transform: Any, path: str) -> list[tuple[str, Transform]]:
    _refuse_hooks(transform, path)
    if type(transform) not in _COMPOSED:
        return [(path, transform)]
    nested = [_flatten(step, f"{path}.transforms[{i}]") for i, step in enumerate(transform.transforms)]
    return [step for steps in nested for step in steps]


def _refuse_hooks(step: Any, path: str) -> None:
    """A hook may do anything to the image, and one of a Compose would not even be called."""
    for name, module in step.named_modules() if isinstance(step, torch.nn.Module) else ():
        if module._forward_hooks or module._forward_pre_hooks:
            raise UntraceableTransform(
                f"{'.'.join(filter(None, (path, name)))}: expected a step whose geometry can be recorded, found "
                f"{type(module).__qualname__} with forward hooks; remove them"
            )


def _spy(step: Any, path: str) -> Transform:
    if is_albumentations(step):
        unknown = next(unknown_transforms(step, path), None)
        if unknown is None:
            return spy_on_albumentations(step)
        raise UntraceableTransform(
            f"{unknown}: expected a transform whose geometry can be recorded, in a Compose with p=1; leave it out or "
            f"use image-only ones and {', '.join(MOVES)}"
        )
    if _is_pixel_only(step):
        return step  # type: ignore[no-any-return]
    # By exact type: a subclass may do anything.
    if type(step) in _SPIES and not unknown_operations(step):
        return _SPIES[type(step)](step)
    known = ", ".join(sorted({kind.__name__ for kind in (tv.Compose, *_SPIES, *PIXEL_ONLY)}))
    found = f"{type(step).__module__}.{type(step).__qualname__}"
    raise UntraceableTransform(
        f"{path}: expected a step whose geometry can be recorded, found "
        f"{' with '.join([found, *unknown_operations(step)[:1]])}; leave it out or use one of: {known} "
        "(a tuple of stages: join them with Compose)"
    )


def _is_pixel_only(step: Any) -> bool:
    if type(step) in (tv.RandomApply, v2.RandomApply):
        return all(_is_pixel_only(inner) for inner in step.transforms)
    return type(step) in PIXEL_ONLY


def _spy_on_whole(step: Transform) -> Transform:
    """Shows the whole image, whatever its size: the same unit square."""
    return step


def _spy_on_random_crop(step: Any) -> Transform:
    draw = type(step).get_params

    def get_params(_: Any, image: Any, *args: Any) -> Any:
        top, left, height, width = drawn = draw(image, *args)
        note(crop_of(image, left, top, width, height))
        return drawn

    spy: Transform = spy_on(step, get_params=get_params)
    return spy


def _spy_on_crop_or_pad(step: Any) -> Transform:
    draw = type(step).get_params

    def get_params(self: Any, image: Any, *args: Any) -> Any:
        top, left = drawn = draw(image, *args)
        note(crop_of(image, left, top, *self.size[::-1]), filling=True)
        return drawn

    spy: Transform = spy_on(step, get_params=get_params)
    return spy


def _spy_on_center_crop(step: Any) -> Transform:
    def crop(image: Any) -> Any:
        width, height = size_of(image)
        crop_height, crop_width = step.size
        left, top = _centre_offset(width, crop_width), _centre_offset(height, crop_height)
        note(crop_of(image, left, top, crop_width, crop_height), filling=True)
        return step(image)

    return crop


def _centre_offset(size: int, crop: int) -> int:
    """Where torchvision's centre crop begins; negative where it pads."""
    return round((size - crop) / 2.0) if crop <= size else -((crop - size) // 2)


def _spy_on_flip(move: Affine) -> Callable[[Transform], Transform]:
    def spy(step: Transform) -> Transform:
        def flip(image: Any) -> Any:
            result = step(image)
            # A flip that does not happen returns the very object that it was given.
            if result is not image:
                note(move)
            return result

        return flip

    return spy


_SPIES: dict[type, Callable[[Any], Transform]] = {
    tv.Resize: _spy_on_whole,
    timm_transforms.ResizeKeepRatio: _spy_on_whole,
    tv.CenterCrop: _spy_on_center_crop,
    timm_transforms.CenterCropOrPad: _spy_on_center_crop,
    timm_transforms.RandomCropOrPad: _spy_on_crop_or_pad,
    tv.RandomResizedCrop: _spy_on_random_crop,
    timm_transforms.RandomResizedCropAndInterpolation: _spy_on_random_crop,
    tv.RandomHorizontalFlip: _spy_on_flip(FLIP_X),
    tv.RandomVerticalFlip: _spy_on_flip(FLIP_Y),
    v2.CenterCrop: _spy_on_center_crop,
    **dict.fromkeys(V2_WHOLE, _spy_on_whole),
    **V2_SPIES,
    **POLICIES,
}
