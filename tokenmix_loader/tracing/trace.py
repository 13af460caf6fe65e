"""The user's own training transform, with a record of where its pixels come from.

    traced = trace(create_transform(224, is_training=True, auto_augment=None))
    image, affine = traced(pil_image)

Nothing about the transform is imitated: each step runs as it is, and its geometry is read off what it did. So
images and random streams are those of the transform alone, bit by bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from timm.data import random_erasing as timm_erasing
from timm.data import transforms as timm_transforms
from torchvision import transforms as tv
from torchvision.transforms import v2

from tokenmix_loader.tracing import albumentation, crops_and_flips, policies, recorder, torchvision_v2
from tokenmix_loader.tracing.recorder import Recorder, Step

Array = npt.NDArray[np.float64]

PIXEL_ONLY: tuple[type, ...] = (
    tv.ToTensor, tv.PILToTensor, tv.ConvertImageDtype, tv.Normalize, tv.RandomErasing,
    tv.ColorJitter, tv.Grayscale, tv.RandomGrayscale, tv.GaussianBlur, tv.RandomInvert, tv.RandomPosterize,
    tv.RandomSolarize, tv.RandomAdjustSharpness, tv.RandomAutocontrast, tv.RandomEqualize,
    timm_transforms.ToTensor, timm_transforms.ToNumpy, timm_transforms.MaybeToTensor,
    timm_transforms.MaybePILToTensor, timm_erasing.RandomErasing, *torchvision_v2.PIXEL_ONLY,
)  # fmt: skip
RECORDERS: dict[type, Recorder] = crops_and_flips.RECORDERS | torchvision_v2.RECORDERS | policies.RECORDERS
_COMPOSED = (tv.Compose, v2.Compose)


class UntraceableTransform(TypeError):  # noqa: N818 -- says what the transform is
    """A transform has a step whose geometry cannot be recorded."""


class TracedImage(NamedTuple):
    """A transformed image and where it comes from, as `align` takes it.

    `affine` float64 [2, 3] maps the result's unit square to that of the input, `(x, y) = affine @ (u, v, 1)`.
    `bounds` float64 [4] is a box (x0, y0, x1, y1) in the input's unit square; nothing outside of it is visible. Where
    a crop is rotated or shifted afterwards, the affine also reaches what was cropped away, which the result shows as a
    colour: only the bounds tell.
    """

    image: Any
    affine: Array
    bounds: Array


class TracedTransform:
    """A transform that also tells where each pixel of its result comes from; see `trace`."""

    def __init__(self, transform: Step) -> None:
        self._transform = transform
        self._steps = [_recording(step, path) for path, step in _flatten(transform, "transform")]

    def __reduce__(self) -> tuple[type[TracedTransform], tuple[Step]]:
        """As the transform itself: the recording steps are made anew."""
        return TracedTransform, (self._transform,)

    def __call__(self, image: Any) -> tuple[Any, Array]:
        """The transformed image and its affine, see `TracedImage`."""
        return self.view(image)[:2]

    def view(self, image: Any) -> TracedImage:
        """The transformed image, its affine and its bounds."""
        image, place = self.placed(image)
        return TracedImage(image, place[:6].reshape(2, 3), place[6:])

    def placed(self, image: Any) -> tuple[Any, Array]:
        """The transformed image, and affine and bounds in one float64 [10], which costs least."""
        image, affine, bounds = recorder.run(self._steps, image)
        return image, np.array(affine + bounds)


def trace(transform: Any) -> TracedTransform:
    """Wrap a transform of timm, torchvision (v1 or v2) or Albumentations, which stays as it is and stays in use.

    Known are everything that timm's create_transform makes for training except AugMix, and of torchvision
    Compose, Resize, CenterCrop, RandomResizedCrop, flips, RandomRotation, RandomAffine, RandAugment,
    TrivialAugmentWide, AutoAugment and steps that change pixels where they are (`PIXEL_ONLY`, also within
    RandomApply). Of Albumentations: Compose of image-only transforms and of `albumentation.GEOMETRY_OF`; it gets an
    array, as it wants. Where timm asks Pillow to posterize to 0 bits, which would raise, 1 bit is kept. None leaves
    images as they are; what is traced already is returned.

    Raises UntraceableTransform naming any other step.
    """
    if isinstance(transform, TracedTransform):
        return transform
    return TracedTransform(tv.Compose([]) if transform is None else transform)


def _flatten(transform: Any, path: str) -> list[tuple[str, Step]]:
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


def _recording(step: Any, path: str) -> Step:
    """The step itself, or its recording version; by exact type, for a subclass may do anything."""
    if albumentation.is_albumentations(step):
        return _recording_albumentations(step, path)
    if _is_pixel_only(step):
        return step  # type: ignore[no-any-return]
    unknown = policies.unknown_operations(step)
    if type(step) in RECORDERS and not unknown:
        return RECORDERS[type(step)](step)
    known = ", ".join(sorted({kind.__name__ for kind in (tv.Compose, *RECORDERS, *PIXEL_ONLY)}))
    found = " with ".join([f"{type(step).__module__}.{type(step).__qualname__}", *unknown[:1]])
    raise UntraceableTransform(
        f"{path}: expected a step whose geometry can be recorded, found {found}; leave it out or use one of: {known} "
        "(a tuple of stages: join them with Compose)"
    )


def _recording_albumentations(step: Any, path: str) -> Step:
    unknown = next(albumentation.unknown_transforms(step, path), None)
    if unknown is None:
        return albumentation.recording_pipeline(step)
    raise UntraceableTransform(
        f"{unknown}: expected a transform whose geometry can be recorded, in a Compose with p=1; leave it out or "
        f"use image-only ones and {', '.join(albumentation.GEOMETRY_OF)}"
    )


def _is_pixel_only(step: Any) -> bool:
    if type(step) in (tv.RandomApply, v2.RandomApply):
        return all(_is_pixel_only(inner) for inner in step.transforms)
    return type(step) in PIXEL_ONLY
