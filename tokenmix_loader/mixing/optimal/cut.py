"""The best assignment of three levels to the blocks of a grid, exactly, as one minimum cut.

Each block has a level z of 0, 1/2 or 1; levels cost something by themselves, and neighbours pay for the square of their
difference. That square is convex, so two yes-or-no questions per block, "is z >= 1/2?" and "is z = 1?", make it a
minimum cut (Ishikawa, PAMI 2003), where the general problem of many labels has only approximate solutions.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tokenmix_loader.compiled.door import optimal_loops

Ints = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

LEVELS = np.array([0, 0.5, 1])
# SciPy counts in int32. All that levels cost together is 2^26 units; what may never be cut costs 2^29.
_UNITS, _NEVER = 1 << 26, 1 << 29


class CutGraph(NamedTuple):
    """Arc 2 e of edge e leads to node `heads[2 e]`, arc 2 e + 1 back; `arcs[starts[p]:starts[p + 1]]` leave node p.

    Of n blocks, node i asks whether z_i >= 1/2, node n + i whether z_i = 1.
    """

    heads: Ints
    starts: Ints
    arcs: Ints


def best_levels(costs: Doubles, down: Doubles, right: Doubles, *, half: bool = True) -> Doubles:
    """Levels z [B, h, w] of least energy: `costs` [B, 3, h, w] of the levels 0, 1/2, 1, and `weight * (z_i - z_j)^2`.

    `down` [B, h - 1, w] >= 0 are the weights between a block and the one below, `right` [B, h, w - 1] those between a
    block and the next. Without `half`, levels are 0 and 1. Of equally good solutions it is the one with the highest
    levels. Costs are rounded to 2^-26 of their range, summed over blocks.
    """
    batch, _, height, width = costs.shape
    assert min(down.min(initial=0), right.min(initial=0)) >= 0
    total = np.ptp(costs, axis=1).sum(axis=(1, 2))[:, None]
    per_unit = np.divide(_UNITS, total, out=np.zeros_like(total), where=total > 0)
    first, second = (-np.diff(costs, axis=1)).reshape(batch, 2, -1).swapaxes(0, 1)
    gains = np.rint(np.concatenate((first, second), axis=1) * per_unit).astype(np.int64)
    weights = np.concatenate((down.reshape(batch, -1), right.reshape(batch, -1)), axis=1)
    # What costs more than all levels together is never cut, however much more it is.
    squared = np.rint(np.minimum(weights / 4, total) * per_unit).astype(np.int64)
    graph = cut_graph(height, width)
    yes = minimum_cuts(graph, _capacities(squared, height * width, half), gains)
    levels: Doubles = LEVELS[yes.reshape(batch, 2, height, width).sum(axis=1)]
    return levels


def _capacities(squared: Ints, blocks: int, half: bool) -> Ints:
    """Capacities of the arcs, int64 [B, 2 E], for pairs of neighbours [B, pairs] that pay `squared` * (l_i - l_j)^2.

    With l = 2 z = u + v, where u asks for z >= 1/2 and v for z = 1, so that v implies u, the square is
    |u_i - u_j| + |v_i - v_j| + 2 v_j (1 - u_i) + 2 v_i (1 - u_j). Without `half`, u implies v, too.
    """
    never = np.full((len(squared), blocks), _NEVER)
    nothing = np.zeros_like(squared)
    forth = np.concatenate((never, squared, squared, 2 * squared, 2 * squared), axis=1)
    back = np.concatenate((never * (not half), squared, squared, nothing, nothing), axis=1)
    return np.stack((forth, back), axis=2).reshape(len(squared), -1)


@cache
def cut_graph(height: int, width: int) -> CutGraph:
    """The graph of a grid of blocks; the order of its edges is that of `_capacities`."""
    n = height * width
    block = np.arange(n).reshape(height, width)
    i = np.concatenate((block[:-1].ravel(), block[:, :-1].ravel()))
    j = np.concatenate((block[1:].ravel(), block[:, 1:].ravel()))
    tails = np.concatenate((n + block.ravel(), i, n + i, n + j, n + i))
    ends = np.concatenate((block.ravel(), j, n + j, i, j))
    heads = np.stack((ends, tails), axis=1).ravel()
    starts_at = np.stack((tails, ends), axis=1).ravel()
    arcs = np.argsort(starts_at, kind="stable")
    starts = np.searchsorted(starts_at[arcs], np.arange(2 * n + 1))
    return CutGraph(heads, starts, arcs)


def minimum_cuts(graph: CutGraph, capacities: Ints, gains: Ints) -> Bools:
    """Which nodes [B, N] say yes: least sum of the arcs from a yes to a no, less the `gains` [B, N] of the yeses.

    Of several such sets, the one that holds all others. `capacities` [B, 2 E] of the arcs.
    """
    if loops := optimal_loops():
        found: Bools = loops.minimum_cuts(graph.starts, graph.arcs, graph.heads, capacities, gains)
        return found
    return np.stack([_minimum_cut(graph, *problem) for problem in zip(capacities, gains, strict=True)])


def _minimum_cut(graph: CutGraph, capacities: Ints, gains: Ints) -> Bools:
    """The same for one problem, by SciPy: all nodes from which nothing more can flow to the sink."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    nodes = len(gains)
    source, sink, numbers = nodes, nodes + 1, np.arange(nodes)
    tails = np.concatenate((graph.heads.reshape(-1, 2)[:, ::-1].ravel(), np.full(nodes, source), numbers))
    heads = np.concatenate((graph.heads, numbers, np.full(nodes, sink)))
    values = np.concatenate((capacities, gains.clip(min=0), (-gains).clip(min=0))).astype(np.int32)
    matrix: Any = coo_array((values, (tails, heads)), shape=(nodes + 2, nodes + 2)).tocsr()
    left = matrix - maximum_flow(matrix, source, sink).flow
    left.eliminate_zeros()
    to_sink = breadth_first_order(left.T.tocsr(), sink, return_predecessors=False)
    yes = np.ones(nodes + 2, np.bool_)
    yes[to_sink] = False
    return yes[:nodes]
