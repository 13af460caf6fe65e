"""What augmentation policies really did to an image: timm's and torchvision's, run as they are.

A policy draws its operations itself. Each operation that it draws is watched; so nothing of the drawing is
imitated, and random streams are those of the unwatched policy.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from PIL import Image
from timm.data import auto_augment as timm_aa
from torchvision import transforms as tv

from tokenmix_loader.affine import IDENTITY, Affine
from tokenmix_loader.watch import watched

# Of each operation that moved anything, in turn, the map of its result's unit square to that of its input.
Moves = list[Affine]
Augmented = tuple[Any, Moves]

TIMM_MOVES = frozenset((
    timm_aa.rotate, timm_aa.shear_x, timm_aa.shear_y, timm_aa.translate_x_abs, timm_aa.translate_x_rel,
    timm_aa.translate_y_abs, timm_aa.translate_y_rel,
))  # fmt: skip
TIMM_OPERATIONS = TIMM_MOVES | frozenset((
    timm_aa.auto_contrast, timm_aa.brightness, timm_aa.color, timm_aa.contrast, timm_aa.desaturate,
    timm_aa.equalize, timm_aa.gaussian_blur, timm_aa.gaussian_blur_rand, timm_aa.invert, timm_aa.posterize,
    timm_aa.sharpness, timm_aa.solarize, timm_aa.solarize_add,
))  # fmt: skip


def record_one(step: Any, image: Any) -> Augmented:
    """A step that moves the image by itself: torchvision's RandomRotation and RandomAffine."""
    moves: Moves = []
    return _watch(moves, step, image), moves


def record_timm(step: Any, image: Any) -> Augmented:
    """timm's RandAugment and AutoAugment."""
    moves: Moves = []
    spy = twin(step)
    if type(step) is timm_aa.RandAugment:
        spy.ops = [partial(_operate, moves, op) for op in step.ops]
    else:
        spy.policy = [[partial(_operate, moves, op) for op in ops] for ops in step.policy]
    return spy(image), moves


def record_torchvision(step: Any, image: Any) -> Augmented:
    """torchvision's RandAugment, TrivialAugmentWide and AutoAugment, which run `_apply_op` for each draw."""
    moves: Moves = []
    forward = type(step).forward
    apply_op = forward.__globals__["_apply_op"]

    def remember(image: Any, *args: Any, **kwargs: Any) -> Any:
        return _watch(moves, lambda watch: apply_op(watch, *args, **kwargs), image)

    # The same code object, to which one name means something else: patching the module would reach other threads.
    spied = FunctionType(forward.__code__, forward.__globals__ | {"_apply_op": remember})
    spy = twin(step)
    spy.forward = MethodType(spied, spy)
    return spy(image), moves


RECORDERS: dict[type, Callable[[Any, Any], Augmented]] = {
    timm_aa.RandAugment: record_timm,
    timm_aa.AutoAugment: record_timm,
    tv.RandAugment: record_torchvision,
    tv.TrivialAugmentWide: record_torchvision,
    tv.AutoAugment: record_torchvision,
    tv.RandomRotation: record_one,
    tv.RandomAffine: record_one,
}


def twin(step: Any) -> Any:
    """A shallow copy to spy on: the user's object, and other threads that use it, see nothing of it."""
    copied = object.__new__(type(step))  # several times quicker than copy.copy
    copied.__dict__.update(step.__dict__)
    return copied


def unknown_operations(step: Any) -> list[str]:
    """Names of operations of timm's policies that are not timm's own."""
    ops = step.ops if type(step) is timm_aa.RandAugment else []
    ops = [op for sub in step.policy for op in sub] if type(step) is timm_aa.AutoAugment else ops
    return [repr(op) for op in ops if type(op) is not timm_aa.AugmentOp or op.aug_fn not in TIMM_OPERATIONS]


def _operate(moves: Moves, op: Any, image: Any) -> Any:
    if op.aug_fn is timm_aa.posterize:
        op = twin(op)
        op.aug_fn = _posterize
    return _watch(moves, op, image) if op.aug_fn in TIMM_MOVES else op(image)


def _watch(moves: Moves, function: Callable[[Any], Any], image: Any) -> Any:
    result, move = watched(function, image)
    if move is not IDENTITY:
        moves.append(move)
    return result


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
