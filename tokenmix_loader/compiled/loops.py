"""What is compiled where numba is installed (extra `fast`), for the CPU; `door` says when it is used.

With tensors, most of the time goes into beginning an operation and into what lies between two of them. They stay the
definition, on every device; tests hold the two together.
"""

from __future__ import annotations

import numpy as np

from tokenmix_loader.compiled.align import align_arrays, align_logits, are_sound
from tokenmix_loader.compiled.mix import are_within, mix_arrays, mix_pixels

__all__ = ["align_arrays", "align_logits", "are_sound", "are_within", "mix_arrays", "mix_pixels", "try_out"]


def try_out() -> None:
    """Have everything compiled; raises what numba raises where that cannot be."""
    views = bounds = np.array([[0.0, 0, 1, 1]])
    for affine in ((1.0, 0, 0, 0, 1, 0), (0, 1.0, 0, 1, 0, 0), (1.0, 0.5, 0, 0, 1, 0)):
        affines = np.array(affine).reshape(1, 2, 3)
        tokens = align_arrays(np.ones((1, 1, 1), np.float32), views, affines, bounds, (1, 1), 1, True)
        align_logits(np.ones((1, 1, 1), np.float32), np.ones(1, np.bool_), views, affines, bounds, (1, 1), 1)
    zero = np.zeros(1, np.int64)
    if not (are_sound(views, affines, bounds) and are_within(zero, 1)):
        raise RuntimeError("other results than before compilation")
    mix_arrays(tokens, tokens, zero, zero, 1, 0.1, 0.1)
    pixels = np.zeros((1, 1, 1, 1), np.uint8)
    for mixed in (None, pixels.copy()):
        mix_pixels(pixels, np.ones((1, 1, 1), np.bool_), mixed)
