"""What augmentation policies really did to an image: timm's and torchvision's, run as they are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any

import numpy as np
from PIL import Image
from timm.data import auto_augment as timm_aa
from torchvision import transforms as tv

from tokenmix_loader.tracing.pillow import watched
from tokenmix_loader.tracing.recorder import spy_on

Spy = Callable[[Any], Any]

TIMM_MOVES = frozenset((
    timm_aa.rotate, timm_aa.shear_x, timm_aa.shear_y, timm_aa.translate_x_abs, timm_aa.translate_x_rel,
    timm_aa.translate_y_abs, timm_aa.translate_y_rel,
))  # fmt: skip
TIMM_OPERATIONS = TIMM_MOVES | frozenset((
    timm_aa.auto_contrast, timm_aa.brightness, timm_aa.color, timm_aa.contrast, timm_aa.desaturate,
    timm_aa.equalize, timm_aa.gaussian_blur, timm_aa.gaussian_blur_rand, timm_aa.invert, timm_aa.posterize,
    timm_aa.sharpness, timm_aa.solarize, timm_aa.solarize_add,
))  # fmt: skip


def spy_on_moving(step: Any) -> Spy:
    """A step that moves the image by itself: torchvision's RandomRotation and RandomAffine."""
    return partial(watched, step)


def spy_on_timm_rand(step: Any) -> Spy:
    """timm's RandAugment."""
    # As an array, because NumPy, which chooses among them, would turn a list into one for every image.
    ops = np.empty(len(step.ops), object)
    ops[:] = [_spy_on_operation(op) for op in step.ops]
    spy: Spy = spy_on(step, ops=property(lambda _: ops))
    return spy


def spy_on_timm_auto(step: Any) -> Spy:
    """timm's AutoAugment."""
    policy = [[_spy_on_operation(op) for op in ops] for ops in step.policy]
    spy: Spy = spy_on(step, policy=property(lambda _: policy))
    return spy


def spy_on_torchvision(step: Any) -> Spy:
    """torchvision's RandAugment, TrivialAugmentWide and AutoAugment, which run `_apply_op` for each draw."""
    forward = type(step).forward
    apply_op = forward.__globals__["_apply_op"]

    def apply_and_note(image: Any, *args: Any, **kwargs: Any) -> Any:
        return watched(lambda watch: apply_op(watch, *args, **kwargs), image)

    # The same code object, to which one name means something else: patching the module would reach other threads.
    spied = FunctionType(forward.__code__, forward.__globals__ | {"_apply_op": apply_and_note})
    spy: Spy = spy_on(step, forward=spied)
    return spy


POLICIES: dict[type, Callable[[Any], Spy]] = {
    timm_aa.RandAugment: spy_on_timm_rand,
    timm_aa.AutoAugment: spy_on_timm_auto,
    tv.RandAugment: spy_on_torchvision,
    tv.TrivialAugmentWide: spy_on_torchvision,
    tv.AutoAugment: spy_on_torchvision,
    tv.RandomRotation: spy_on_moving,
    tv.RandomAffine: spy_on_moving,
}


def unknown_operations(step: Any) -> list[str]:
    """Names of operations of timm's policies that are not timm's own."""
    ops = step.ops if type(step) is timm_aa.RandAugment else []
    ops = [op for sub in step.policy for op in sub] if type(step) is timm_aa.AutoAugment else ops
    return [repr(op) for op in ops if type(op) is not timm_aa.AugmentOp or op.aug_fn not in TIMM_OPERATIONS]


def _spy_on_operation(op: Any) -> Any:
    """The operation's own function is called only where its chance falls so: there is nothing to watch otherwise."""
    aug_fn = op.aug_fn

    def apply_and_note(image: Any, *args: Any, **kwargs: Any) -> Any:
        return watched(lambda watch: aug_fn(watch, *args, **kwargs), image)

    if aug_fn in TIMM_MOVES:
        return spy_on(op, aug_fn=property(lambda _: apply_and_note))
    return spy_on(op, aug_fn=property(lambda _: _posterize)) if aug_fn is timm_aa.posterize else op


def _posterize(image: Image.Image, bits_to_keep: int, **kwargs: Any) -> Any:
    """timm's increasing magnitudes reach 0 bits, which Pillow from 13 on refuses: keep 1 bit, the fewest it takes.

    The fewest are 1, not 0, because 0 bits are a black image: nothing to see, and a label to learn.
    """
    try:
        return timm_aa.posterize(image, bits_to_keep, **kwargs)
    except ValueError:
        if bits_to_keep >= 1:
            raise
        return timm_aa.posterize(image, 1, **kwargs)
