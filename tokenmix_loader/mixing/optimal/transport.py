"""Puzzle Mix's transport: blocks of an image that matter move to places where the mask shows that image."""

from __future__ import annotations

from functools import cache

import numpy as np

from tokenmix_loader.compiled.door import optimal_loops
from tokenmix_loader.mixing.optimal.cut import Bools, Doubles, Ints


def best_origins(saliency: Doubles, shown: Bools, xi: float) -> Ints:
    """Which block of each image comes to each place, int64 [N, h * w], in row order; every block has one place.

    Block i at place j costs `xi` times their squared distance, see `squared_distances`, less its `saliency` [N, h, w]
    if place j is `shown` [N, h, w]. The published method assigns approximately on the GPU; here the sum is least.
    """
    distances = squared_distances(*shown.shape[1:])
    flat = saliency.reshape(len(saliency), -1), shown.reshape(len(shown), -1)
    if loops := optimal_loops():
        found: Ints = loops.best_origins(*map(np.ascontiguousarray, flat), distances, float(xi))
        return found
    return np.array([_assign(*each, distances, xi) for each in zip(*flat, strict=True)])


def _assign(saliency: Doubles, shown: Bools, distances: Doubles, xi: float) -> Ints:
    from scipy.optimize import linear_sum_assignment

    origins = np.arange(len(shown))
    blocks, places = linear_sum_assignment(xi * distances - saliency[:, None] * shown)
    origins[places] = blocks
    return origins


@cache
def squared_distances(height: int, width: int) -> Doubles:
    """Between all blocks, [h * w, h * w], in lengths of the grid's sides: at most 2."""
    y, x = np.divmod(np.arange(height * width), width)
    steps = (y - y[:, None]) / max(height - 1, 1), (x - x[:, None]) / max(width - 1, 1)
    return np.square(steps[0]) + np.square(steps[1])
