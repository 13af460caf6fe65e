"""All compiled loops, for the CPU and where numba is installed (extra `fast`); `door` says when they are used.

They save what tensors spend on starting operations and on memory between two of them. The tensor code in `scoring` and
`mixing` stays the definition, on every device; tests compare the two.
"""

from __future__ import annotations

import numpy as np

from tokenmix_loader.compiled.align import align_arrays, align_logits, are_valid
from tokenmix_loader.compiled.mix import are_within, mix_arrays, mix_pixels

__all__ = ["align_arrays", "align_logits", "are_valid", "are_within", "compile_all", "mix_arrays", "mix_pixels"]


def compile_all() -> None:
    """Call every loop once, which compiles it; raises what numba raises where that fails."""
    views = bounds = np.array([[0.0, 0, 1, 1]])
    for affine in ((1.0, 0, 0, 0, 1, 0), (0, 1.0, 0, 1, 0, 0), (1.0, 0.5, 0, 0, 1, 0)):
        affines = np.array(affine).reshape(1, 2, 3)
        tokens = align_arrays(np.ones((1, 1, 1), np.float32), views, affines, bounds, (1, 1), 1, True)
        align_logits(np.ones((1, 1, 1), np.float32), np.ones(1, np.bool_), views, affines, bounds, (1, 1), 1)
    zero = np.zeros(1, np.int64)
    if not (are_valid(views, affines, bounds) and are_within(zero, 1)):
        raise RuntimeError("compiled code gives wrong results")
    mix_arrays(tokens, tokens, zero, zero, 1, 0.1, 0.1)
    pixels = np.zeros((1, 1, 1, 1), np.uint8)
    for mixed in (None, pixels.copy()):
        mix_pixels(pixels, np.ones((1, 1, 1), np.bool_), mixed)
