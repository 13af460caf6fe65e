"""Minimum cuts as compiled loops: push-relabel (Goldberg and Tarjan) with exact distances in each round."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tokenmix_loader.compiled.jit import njit_cached

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@njit_cached
def minimum_cuts(starts: Ints, arcs: Ints, heads: Ints, capacities: Ints, gains: Ints) -> Bools:
    """`mixing.optimal.cut.minimum_cuts`, of the graph's parts; overwrites capacities [B, 2 E] and gains [B, N]."""
    yes = np.empty(gains.shape, np.bool_)
    scratch = np.empty((2, gains.shape[1]), np.int64)
    for i in range(len(gains)):
        minimum_cut(starts, arcs, heads, capacities[i], gains[i], scratch, yes[i])
    return yes


@njit_cached
def minimum_cut(
    starts: Ints, arcs: Ints, heads: Ints, capacities: Ints, gains: Ints, scratch: Ints, yes: Bools
) -> None:
    """One cut by push-relabel: what nodes gain flows to nodes that lose (negative gains), one arc nearer in each step.

    In each round the distances are measured anew, and nodes push what they have from the farthest to the nearest, so
    that every arc is looked at twice. When nothing can reach a node that loses any more, the flow is a maximum.
    """
    distance, queue = scratch
    reached, going = 0, True
    while going:
        reached = _measure(starts, arcs, heads, capacities, gains, distance, queue)
        going = False
        for k in range(reached - 1, -1, -1):
            node = queue[k]
            if gains[node] > 0:
                going = True
                _push(node, starts, arcs, heads, capacities, gains, distance)
    yes[:] = True
    for k in range(reached):
        yes[queue[k]] = False


@njit_cached
def _measure(starts: Ints, arcs: Ints, heads: Ints, capacities: Ints, gains: Ints, distance: Ints, queue: Ints) -> int:
    """Put distances, in arcs with capacity left, to the nearest node that loses, and nodes in that order; -1: no way.

    Returns how many nodes have one.
    """
    first, last = 0, 0
    for node in range(len(gains)):
        distance[node] = -1
        if gains[node] < 0:
            distance[node] = 0
            queue[last] = node
            last += 1
    while first < last:
        node = queue[first]
        first += 1
        for k in range(starts[node], starts[node + 1]):
            arc = arcs[k]
            before = heads[arc]
            if distance[before] < 0 and capacities[arc ^ 1] > 0:
                distance[before] = distance[node] + 1
                queue[last] = before
                last += 1
    return last


@njit_cached
def _push(node: int, starts: Ints, arcs: Ints, heads: Ints, capacities: Ints, gains: Ints, distance: Ints) -> None:
    """Send on what a node has, as far as arcs that lead nearer have capacity left."""
    nearer = distance[node] - 1
    if nearer < 0:  # it lost before this round
        return
    for k in range(starts[node], starts[node + 1]):
        arc = arcs[k]
        if capacities[arc] > 0 and distance[heads[arc]] == nearer:
            amount = min(gains[node], capacities[arc])
            capacities[arc] -= amount
            capacities[arc ^ 1] += amount
            gains[node] -= amount
            gains[heads[arc]] += amount
            if gains[node] == 0:
                return
