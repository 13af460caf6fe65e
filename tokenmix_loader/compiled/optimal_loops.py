"""The loops of optimal masks, which are compiled where these are asked for; beside those of `loops`."""

from __future__ import annotations

import numpy as np

from tokenmix_loader.compiled.cut import minimum_cuts
from tokenmix_loader.compiled.sources import mix_sources
from tokenmix_loader.compiled.swaps import best_swaps, swap_energy
from tokenmix_loader.compiled.transport import best_origins

__all__ = ["best_origins", "best_swaps", "compile_all", "minimum_cuts", "mix_sources", "swap_energy"]


def compile_all() -> None:
    """Call every loop once, which compiles it; raises what numba raises where that fails."""
    # Two nodes, of which the first gains 2 and the second loses 1, joined by an arc of 1.
    ends, starts, heads = np.array([0, 1]), np.array([0, 1, 2]), np.array([1, 0])
    yes = minimum_cuts(starts, ends, heads, np.array([[1, 0]]), np.array([[2, -1]]))
    if yes.tolist() != [[True, True]] and yes.tolist() != [[True, False]]:
        raise RuntimeError("compiled code gives wrong results")
    contents, graph = np.zeros((1, 1, 2), np.int64), (np.array([0, 1]), np.array([0, 1, 2]), np.array([1, 0]))
    best_swaps(np.zeros((1, 1, 1)), contents, 1.0, np.zeros(1, np.bool_), 1, 0.0, *graph)
    swap_energy(np.zeros((1, 1, 1)), contents, 1.0)
    best_origins(np.ones((1, 1)), np.ones((1, 1), np.bool_), np.zeros((1, 1)), 1.0)
    places, weights = np.zeros((1, 2, 1, 1), np.int64), np.ones((1, 2, 1, 1), np.float32)
    for word in (np.uint8, np.uint64):
        pixels = np.zeros((1, 1, 1, 1), word)
        mix_sources(pixels, places, places, weights, np.zeros(2, word), pixels.copy())
