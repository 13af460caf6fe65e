"""timm's and torchvision's augmentation policies, run as they are; the image records how it is moved."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from PIL import Image
from timm.data import auto_augment as timm_aa
from torchvision import transforms as tv

from tokenmix_loader.tracing.pillow import apply_recorded
from tokenmix_loader.tracing.recorder import Recorder, Step, with_globals, with_replaced, with_value

TIMM_GEOMETRIC = frozenset((
    timm_aa.rotate, timm_aa.shear_x, timm_aa.shear_y, timm_aa.translate_x_abs, timm_aa.translate_x_rel,
    timm_aa.translate_y_abs, timm_aa.translate_y_rel,
))  # fmt: skip
TIMM_KNOWN = TIMM_GEOMETRIC | frozenset((
    timm_aa.auto_contrast, timm_aa.brightness, timm_aa.color, timm_aa.contrast, timm_aa.desaturate,
    timm_aa.equalize, timm_aa.gaussian_blur, timm_aa.gaussian_blur_rand, timm_aa.invert, timm_aa.posterize,
    timm_aa.sharpness, timm_aa.solarize, timm_aa.solarize_add,
))  # fmt: skip


def unknown_operations(step: Any) -> list[str]:
    """Names of operations in timm's policies that are not timm's own."""
    ops = step.ops if type(step) is timm_aa.RandAugment else []
    ops = [op for sub in step.policy for op in sub] if type(step) is timm_aa.AutoAugment else ops
    return [repr(op) for op in ops if type(op) is not timm_aa.AugmentOp or op.aug_fn not in TIMM_KNOWN]


def _recording_timm_rand(step: Any) -> Step:
    # As an array, because NumPy, which chooses among them, would turn a list into one for every image.
    ops = np.empty(len(step.ops), object)
    ops[:] = [_recording_operation(op) for op in step.ops]
    return with_value(step, "ops", ops)


def _recording_timm_auto(step: Any) -> Step:
    return with_value(step, "policy", [[_recording_operation(op) for op in ops] for ops in step.policy])


def _recording_operation(op: Any) -> Any:
    """timm's operation, which calls `aug_fn` only if it is applied at all."""
    if op.aug_fn in TIMM_GEOMETRIC:
        return with_value(op, "aug_fn", partial(apply_recorded, op.aug_fn))
    return with_value(op, "aug_fn", _posterize) if op.aug_fn is timm_aa.posterize else op


def _posterize(image: Image.Image, bits_to_keep: int, **kwargs: Any) -> Any:
    """timm's increasing magnitudes reach 0 bits, which Pillow from 13 on refuses: keep 1 bit, the fewest it takes.

    0 bits would make the image black: nothing to see, and a label to learn.
    """
    try:
        return timm_aa.posterize(image, bits_to_keep, **kwargs)
    except ValueError:
        if bits_to_keep >= 1:
            raise
        return timm_aa.posterize(image, 1, **kwargs)


def _recording_torchvision(step: Any) -> Step:
    """RandAugment, TrivialAugmentWide and AutoAugment call the global function `_apply_op` for each draw."""
    forward = type(step).forward
    apply_op = partial(apply_recorded, forward.__globals__["_apply_op"])
    return with_replaced(step, forward=with_globals(forward, _apply_op=apply_op))


def _recording_whole_step(step: Any) -> Step:
    return partial(apply_recorded, step)


RECORDERS: dict[type, Recorder] = {
    timm_aa.RandAugment: _recording_timm_rand,
    timm_aa.AutoAugment: _recording_timm_auto,
    tv.RandAugment: _recording_torchvision,
    tv.TrivialAugmentWide: _recording_torchvision,
    tv.AutoAugment: _recording_torchvision,
    tv.RandomRotation: _recording_whole_step,
    tv.RandomAffine: _recording_whole_step,
}
