"""The user's own training transform, with a record of where its pixels come from.

    traced = trace(create_transform(224, is_training=True, auto_augment=None))
    image, affine = traced(pil_image)

Nothing about the transform is imitated: each step runs as it is, and its geometry is read off what it did. So
images and random streams are those of the transform alone, bit by bit.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from timm.data import random_erasing as timm_erasing
from timm.data import transforms as timm_transforms
from torchvision import transforms as tv
from torchvision.transforms import v2

from tokenmix_loader.tracing import albumentation, crops_and_flips, policies, recorder, torchvision_v2
from tokenmix_loader.tracing.recorder import Recorder, Step, UntraceableTransform, with_value
from tokenmix_loader.tracing.self_test import Fault, find_fault

__all__ = ["TracedImage", "TracedTransform", "UntraceableTransform", "trace"]

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
# They call some of their `transforms`, in some order.
_CHOOSING = (tv.RandomApply, tv.RandomChoice, tv.RandomOrder, v2.RandomApply, v2.RandomChoice, v2.RandomOrder)


class TracedImage(NamedTuple):
    """A transformed image and where it comes from, as `align` takes it.

    `affine` float64 [2, 3] maps the result's unit square to that of the input, `(x, y) = affine @ (u, v, 1)`.
    `bounds` float64 [4] is a box (x0, y0, x1, y1) in the input's unit square; nothing outside of it is visible. Where
    a crop is rotated or shifted afterwards, the affine also reaches what was cropped away, which the result shows as a
    colour: only the bounds tell.

    The box never leaves out what is visible, but may hold more. A rotation or shear in place cuts off corners of the
    image; where a later step pads or moves the result, these show as a colour and are in the box all the same:
    `docs/loops.md` says how much that is.
    """

    image: Any
    affine: Array
    bounds: Array


class TracedTransform:
    """A transform that also tells where each pixel of its result comes from; see `trace`."""

    def __init__(self, transform: Step) -> None:
        """Without the test of `trace`."""
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

    def reseed(self, seed: int) -> None:
        """Set generators that belong to steps; most draw from the global ones."""
        for _, step in _flatten(self._transform, "transform"):
            albumentation.reseed(step, seed)


def trace(transform: Any) -> TracedTransform:
    """Wrap a transform of timm, torchvision (v1 or v2) or Albumentations, which stays as it is and stays in use.

    Known are everything that timm's create_transform makes for training except AugMix, and of torchvision Compose,
    RandomApply, RandomChoice, RandomOrder, Resize, Pad, CenterCrop, RandomCrop, RandomResizedCrop, flips,
    RandomRotation, RandomAffine, RandAugment, TrivialAugmentWide, AutoAugment and steps that change pixels where they
    are (`PIXEL_ONLY`). Of Albumentations: compositions of image-only transforms and of `albumentation.GEOMETRY_OF`; it
    gets an array, as it wants, and its transforms get a function in their tables that records. Padding counts as no
    part of the image, however it is filled. Where timm asks Pillow to posterize to 0 bits, which would raise, 1 bit is
    kept. None leaves images as they are; what is traced already is returned.

    A copy of it is tested on images whose places can be told apart (`self_test`), which takes 0.1 to 0.3 s; random
    generators are left as they were. Unpickling, as in a worker, does not test again.

    Raises UntraceableTransform naming any other step, and one whose pixels come from elsewhere than it records.
    """
    if isinstance(transform, TracedTransform):
        return transform
    traced = TracedTransform(tv.Compose([]) if transform is None else transform)
    if transform is not None:
        _refuse_faults(transform)
    return traced


def _refuse_faults(transform: Any) -> None:
    try:
        tested = copy.deepcopy(transform)
    except Exception as error:
        raise UntraceableTransform(
            f"transform: expected one that can be copied, for a test of it, found {type(error).__name__}: {error}"
        ) from error
    fault = find_fault(TracedTransform(tested))
    if fault is not None:
        path, step, fault = _blame(tested, fault)
        raise UntraceableTransform(_told(path, step, fault))


def _blame(transform: Any, fault: Fault) -> tuple[str, Any, Fault]:
    """The step that is at fault when it runs alone, or the whole transform."""
    for path, step in _single_steps(transform, "transform"):
        try:
            alone = find_fault(TracedTransform(step))
        except UntraceableTransform:
            continue  # it takes no images: tensors, say
        if alone is not None:
            return path, step, alone
    return "transform", transform, fault


def _single_steps(step: Any, path: str) -> Iterator[tuple[str, Any]]:
    if type(step) in _COMPOSED or type(step) in _CHOOSING or type(step).__name__ in albumentation.COMPOSITIONS:
        for i, inner in enumerate(step.transforms):
            yield from _single_steps(inner, f"{path}.transforms[{i}]")
    else:
        yield path, step


def _told(path: str, step: Any, fault: Fault) -> str:
    kind = type(step)
    package = kind.__module__.partition(".")[0]
    version = getattr(sys.modules.get(package), "__version__", "of unknown version")
    recorded, shown = map(_affine_told, (fault.recorded, fault.shown))
    return (
        f"{path}: expected {kind.__module__}.{kind.__qualname__} ({package} {version}) to take pixels from where it "
        f"records, the affine {recorded}, found {shown} in draw {fault.draw} of a test on an image of "
        f"{fault.width}x{fault.height} px; leave the step out, undo what was patched, or use a version of {package} "
        "that passes"
    )


def _affine_told(six: list[float] | None) -> str:
    if six is None:
        return "no affine map of the image"
    numbers = [round(number, 2) + 0.0 for number in six]  # no -0.0
    return f"{[numbers[:3], numbers[3:]]}"


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
    if type(step) in PIXEL_ONLY:
        return step  # type: ignore[no-any-return]
    if type(step) in _CHOOSING or type(step) in _COMPOSED:
        inner = [_recording(each, f"{path}.transforms[{i}]") for i, each in enumerate(step.transforms)]
        return with_value(step, "transforms", inner)
    unknown = policies.unknown_operations(step)
    if type(step) in RECORDERS and not unknown:
        return RECORDERS[type(step)](step)
    known = ", ".join(sorted({kind.__name__ for kind in (*_COMPOSED, *_CHOOSING, *RECORDERS, *PIXEL_ONLY)}))
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
