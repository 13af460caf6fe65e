"""Puzzle Mix's transport as compiled loops: assignments of the same costs as `mixing.optimal.transport`'s."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tokenmix_loader.compiled.jit import njit_cached

Ints = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@njit_cached
def best_origins(saliency: Doubles, shown: Bools, distances: Doubles, xi: float) -> Ints:
    """`mixing.optimal.transport.best_origins` of saliency and shown [N, n], by the squared distances [n, n]."""
    problems, n = saliency.shape
    origins = np.empty((problems, n), np.int64)
    cost = np.empty((n, n))
    for problem in range(problems):
        _assign(saliency[problem], shown[problem], distances, xi, cost, origins[problem])
    return origins


@njit_cached
def _assign(saliency: Doubles, shown: Bools, distances: Doubles, xi: float, cost: Doubles, origins: Ints) -> None:
    """The Hungarian method by shortest paths (Crouse, 2016, as in SciPy); blocks that stay where they are come first.

    Only a block that its place does not show can gain by moving, so all others begin as assigned to their own places.
    """
    n = len(saliency)
    of_blocks, of_places = np.zeros(n), np.zeros(n)  # dual variables
    places = np.arange(n)  # of the blocks; -1: not assigned yet
    origins[:] = places
    settled = True
    for i in range(n):
        for j in range(n):
            cost[i, j] = xi * distances[i, j] - (saliency[i] if shown[j] else 0.0)
        of_blocks[i] = cost[i].min()
        if of_blocks[i] < cost[i, i]:
            places[i] = origins[i] = -1
            settled = False
    if settled:
        return
    shortest, before = np.empty(n), np.empty(n, np.int64)
    seen, reached = np.empty(n, np.bool_), np.empty(n, np.bool_)
    for start in range(n):
        if places[start] < 0:
            end = _shortest_path(start, cost, of_blocks, of_places, places, origins, shortest, before, seen, reached)
            while True:
                block = before[end]
                origins[end] = block
                places[block], end = end, places[block]
                if block == start:
                    break


@njit_cached
def _shortest_path(
    start: int, cost: Doubles, of_blocks: Doubles, of_places: Doubles, places: Ints, origins: Ints, shortest: Doubles,
    before: Ints, seen: Bools, reached: Bools,
) -> int:  # fmt: skip
    """The free place that is nearest to block `start`, by costs less dual variables, which are brought up to date.

    Puts the block `before` each place on the way, the lengths of the `shortest` ways, and which blocks were `seen`.
    """
    n = len(shortest)
    shortest[:], seen[:], reached[:] = np.inf, False, False
    block, length, end = start, 0.0, -1
    while end < 0:
        seen[block] = True
        nearest, at = np.inf, -1
        for place in range(n):
            if reached[place]:
                continue
            way = length + cost[block, place] - of_blocks[block] - of_places[place]
            if way < shortest[place]:
                shortest[place], before[place] = way, block
            if shortest[place] < nearest or (shortest[place] == nearest and origins[place] < 0):
                nearest, at = shortest[place], place
        length = nearest
        reached[at] = True
        if origins[at] < 0:
            end = at
        else:
            block = origins[at]
    of_blocks[start] += length
    for i in range(n):
        if seen[i] and i != start:
            of_blocks[i] += length - shortest[places[i]]
        if reached[i]:
            of_places[i] -= length - shortest[i]
    return end
