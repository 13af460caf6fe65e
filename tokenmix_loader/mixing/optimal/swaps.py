"""Which image each block of one output shows: Co-Mixup's problem with all other outputs fixed.

Every block shows one input k or half of two of them, `contents` (k, l). Its vector z of shares costs z . costs, and
neighbouring blocks pay `weight` times half the squared distance of their vectors: 1 for two inputs, 1/4 for an input
and a half of it. One move, an alpha-beta swap (Boykov et al., PAMI 2001) with a level between, takes two inputs k and
l and all blocks that show nothing else, and finds the best of k, half of each, and l for all of them at once, exactly
(`best_levels`); moves go on until none helps.
"""

from __future__ import annotations

import numpy as np

from tokenmix_loader.compiled.door import optimal_loops
from tokenmix_loader.mixing.optimal.cut import Bools, Doubles, Ints, best_levels, cut_graph

MAX_ROUNDS, _PAIRED = 8, 3
LEAST_GAIN = 1e-9  # of a move: more than rounding, which would let moves go to and fro


def best_swaps(costs: Doubles, contents: Ints, weight: float, soft: bool) -> Ints:
    """`contents` [h, w, 2] after all moves that help; `costs` [m, h, w] of the inputs.

    `soft`: half of two inputs is allowed for any two of the three that are shown most; else only where it was before.
    """
    contents = np.ascontiguousarray(contents)
    paired = most_shown(contents, len(costs)) & soft
    if loops := optimal_loops():
        found: Ints = loops.best_swaps(
            np.ascontiguousarray(costs),
            contents,
            float(weight),
            paired,
            MAX_ROUNDS,
            LEAST_GAIN,
            *cut_graph(*contents.shape[:2]),
        )
        return found
    for _ in range(MAX_ROUNDS):
        moved = False
        for k in range(len(costs)):
            for m in range(k):
                better = _swap(costs, contents, weight, (k, m), bool(paired[k] and paired[m]))
                moved, contents = moved or better is not None, contents if better is None else better
        if not moved:
            break
    return contents


def most_shown(contents: Ints, inputs: int) -> Bools:
    """Which of the inputs [m] are among the three that are shown most."""
    counts = np.bincount(contents.ravel(), minlength=inputs)
    first = np.argsort(-counts, kind="stable")[:_PAIRED]
    among = np.zeros(inputs, np.bool_)
    among[first] = counts[first] > 0
    return among


def swap_energy(costs: Doubles, contents: Ints, weight: float) -> float:
    """What contents [h, w, 2] cost: the inputs', and between neighbours."""
    if loops := optimal_loops():
        return float(loops.swap_energy(np.ascontiguousarray(costs), contents, float(weight)))
    own = np.take_along_axis(costs, np.moveaxis(contents, 2, 0), axis=0).mean(axis=0).sum()
    between = _distance(contents[1:], contents[:-1]).sum() + _distance(contents[:, 1:], contents[:, :-1]).sum()
    return float(own + weight * between)


def _distance(contents: Ints, others: Ints) -> Doubles:
    """Half of the squared distance of the vectors of shares, of contents [..., 2] each."""
    squares = sum((each[..., 0] == each[..., 1]).astype(float) for each in (contents, others)) / 2 + 1
    product = (contents[..., :, None] == others[..., None, :]).sum(axis=(-2, -1)) / 4
    distance: Doubles = squares / 2 - product
    return distance


def _swap(costs: Doubles, contents: Ints, weight: float, pair: tuple[int, int], half: bool) -> Ints | None:
    """`contents` after the best move of two inputs; None where it would not help."""
    moving: Bools = np.all(np.isin(contents, pair), axis=2)
    if not moving.any():
        return None
    k, m = pair
    half = half or bool((moving & (contents[:, :, 0] != contents[:, :, 1])).any())
    choices = np.array([(m, m), (m, k), (k, k)])
    of_levels = np.stack([costs[list(choice)].mean(axis=0) for choice in choices])
    down, right = np.zeros(moving[1:].shape), np.zeros(moving[:, 1:].shape)
    for joined, first, second in ((down, np.s_[:-1], np.s_[1:]), (right, np.s_[:, :-1], np.s_[:, 1:])):
        joined[:] = weight * (moving[first] & moving[second])
        for here, there in ((first, second), (second, first)):
            fixed = weight * ~moving[there]
            for level, choice in zip(of_levels, choices, strict=True):
                level[here] += fixed * _distance(np.broadcast_to(choice, contents[there].shape), contents[there])
    of_levels *= moving
    levels = best_levels(of_levels[None], down[None], right[None], half=half)[0]
    changed = np.where(moving[..., None], choices[(2 * levels).astype(int)], contents)
    gain = swap_energy(costs, contents, weight) - swap_energy(costs, changed, weight)
    return changed if gain > LEAST_GAIN else None
