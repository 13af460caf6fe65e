"""Puzzle Mix's transport: blocks of an image that matter move to places where the mask shows that image."""

from __future__ import annotations

from functools import cache

import numpy as np

from tokenmix_loader.mixing.optimal.cut import Bools, Doubles, Ints


def best_origins(saliency: Doubles, shown: Bools, xi: float) -> Ints:
    """Which block comes to each place, int64 [h * w], numbered in row order; every block has one place.

    Block i at place j costs `xi` times their squared distance, see `squared_distances`, less its `saliency` [h, w] if
    place j is `shown` [h, w]. The published method assigns approximately on the GPU; here the sum is least.
    """
    blocks = np.arange(shown.size)
    # A block gains by moving to a place that shows it at most its saliency, and another one has to make room.
    step = 1 / max(max(shown.shape) - 1, 1)
    if saliency[~shown].max(initial=0) <= 2 * xi * step**2 or not shown.any():
        return blocks
    from scipy.optimize import linear_sum_assignment

    cost = xi * squared_distances(*shown.shape) - saliency.reshape(-1, 1) * shown.reshape(1, -1)
    origins = np.empty_like(blocks)
    origins[linear_sum_assignment(cost)[1]] = blocks
    return origins


@cache
def squared_distances(height: int, width: int) -> Doubles:
    """Between all blocks, [h * w, h * w], in lengths of the grid's sides: at most 2."""
    y, x = np.divmod(np.arange(height * width), width)
    steps = (y - y[:, None]) / max(height - 1, 1), (x - x[:, None]) / max(width - 1, 1)
    return np.square(steps[0]) + np.square(steps[1])
