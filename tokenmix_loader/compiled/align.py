"""`align` as compiled loops: the same numbers as `scoring.geometry`, without a tensor for every step.

Array bounds are not checked here. Every index is compared with the map's size first, so no input, not even nan, can
read outside of a map.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from tokenmix_loader.compiled.jit import njit_cached

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Scratch = tuple[Floats, Floats, Doubles, Doubles, Floats]

_ZERO = np.float32(0)
_HALF, _EIGHTH = np.float32(0.5), np.float32(0.125)


@njit_cached
def align_arrays(
    maps: Floats, views: Doubles, affines: Doubles, bounds: Doubles, grid: tuple[int, int], samples: int, refined: bool
) -> Floats:
    """`align` of maps [B, h, w] by views [B, 4], affines [B, 2, 3] and bounds [B, 4], all C-contiguous and checked."""
    batch, h, w = maps.shape
    tokens = np.zeros((batch, grid[0], grid[1]), np.float32)
    scratch = _new_scratch(h, w, grid, refined)
    for i in range(batch):
        _align_one(maps[i], views[i], affines[i], bounds[i], samples, refined, scratch, tokens[i])
    return tokens


@njit_cached
def align_logits(
    maps: Floats,
    present: Bools,
    views: Doubles,
    affines: Doubles,
    bounds: Doubles,
    grid: tuple[int, int],
    samples: int,
) -> Floats | None:
    """`align` of the evidence in logits [B, h, w], refined, divided by its sum in the map; of those `present` [B].

    None where logits are not finite.
    """
    batch, h, w = maps.shape
    tokens = np.zeros((batch, grid[0], grid[1]), np.float32)
    scratch = _new_scratch(h, w, grid, True)
    evidence = np.empty((h, w), np.float32)
    for i in range(batch):
        sum_, mass = np.float32(0), np.float32(0)
        for y in range(h):
            for x in range(w):
                sum_ += maps[i, y, x]
                evidence[y, x] = max(maps[i, y, x], _ZERO)
                mass += evidence[y, x]
        if not math.isfinite(sum_):
            return None
        if mass > 0 and present[i]:
            _align_one(evidence, views[i], affines[i], bounds[i], samples, True, scratch, tokens[i])
            tokens[i] /= mass
    return tokens


@njit_cached
def _new_scratch(h: int, w: int, grid: tuple[int, int], refined: bool) -> Scratch:
    """Memory for `_align_one`: halved and fine cells, token edges along y and x, and strips of tokens."""
    fold, longest = 2 if refined else 1, max(grid)
    return (
        np.empty((h, fold * w), np.float32),
        np.empty((fold * h, fold * w), np.float32),
        np.empty(longest + 1),
        np.empty(longest + 1),
        np.empty((longest, fold * w), np.float32),
    )


@njit_cached
def _align_one(
    cells: Floats, view: Doubles, affine: Doubles, bound: Doubles, samples: int, refined: bool, scratch: Scratch,
    tokens: Floats,
) -> None:  # fmt: skip
    """Add one map [h, w] to tokens [gh, gw], which are zero before."""
    gh, gw = tokens.shape
    halved, fine, down, across, strips = scratch
    h, w = fine.shape
    (a, b, c), (d, e, f) = affine
    x0, y0, x1, y1 = view
    left, top, right, bottom = bound
    per_x, per_y = w / (x1 - x0), h / (y1 - y0)
    upright, turned = b == 0 and d == 0, a == 0 and e == 0
    first, last = 0, h
    if upright or turned:
        rows, columns = (gh, gw) if upright else (gw, gh)
        _put_edges(across[: columns + 1], a if upright else b, c, left, right, x0, per_x, w)
        _put_edges(down[: rows + 1], e if upright else d, f, top, bottom, y0, per_y, h)
        first, last = int(min(down[0], down[rows])), math.ceil(max(down[0], down[rows]))
    if refined:
        _refine(cells, halved, fine, first // 2, (last + 1) // 2)
    parts = fine if refined else cells
    if upright:
        _overlap(parts, down, across, strips[:gh], tokens)
    elif turned:
        _overlap(parts, down, across, strips[:gw], tokens.T)
    else:
        to_cells = (a * per_x, b * per_x, (c - x0) * per_x, d * per_y, e * per_y, (f - y0) * per_y)
        low = (max((left - x0) * per_x, 0.0), max((top - y0) * per_y, 0.0))
        high = (min((right - x0) * per_x, float(w)), min((bottom - y0) * per_y, float(h)))
        _sample(parts, to_cells, low, high, samples, tokens)


@njit_cached
def are_valid(views: Doubles, affines: Doubles, bounds: Doubles) -> bool:
    """Whether no view is empty and all numbers are finite, as `align` requires."""
    for i in range(len(views)):
        x0, y0, x1, y1 = views[i]
        if not (x0 < x1 and y0 < y1):
            return False
        for numbers in (views[i], affines[i].ravel(), bounds[i]):
            for number in numbers:
                if not math.isfinite(number):
                    return False
    return True


@njit_cached
def _refine(cells: Floats, halved: Floats, fine: Floats, first: int, last: int) -> None:
    """`geometry.refine` of rows [first, last) of cells [h, w]: along x to `halved` [h, 2w], then to `fine` [2h, 2w]."""
    h, w = cells.shape
    for i in range(max(first - 1, 0), min(last + 1, h)):
        row = cells[i]
        for j in range(w):
            half = row[j] * _HALF
            before, behind = row[j - 1] if j > 0 else row[j], row[j + 1] if j + 1 < w else row[j]
            shift = min(max((behind - before) * _EIGHTH, -half), half)
            halved[i, 2 * j] = half - shift
            halved[i, 2 * j + 1] = half + shift
    for i in range(first, last):
        above, here, below = halved[max(i - 1, 0)], halved[i], halved[min(i + 1, h - 1)]
        upper, lower = fine[2 * i], fine[2 * i + 1]
        for j in range(2 * w):
            half = here[j] * _HALF
            shift = min(max((below[j] - above[j]) * _EIGHTH, -half), half)
            upper[j] = half - shift
            lower[j] = half + shift


@njit_cached
def _put_edges(
    edges: Doubles, scale: float, offset: float, low: float, high: float, near: float, per_unit: float, cells: int
) -> None:
    """Edges of the tokens along one axis: in cells, from 0 to the number of cells."""
    step = scale / (len(edges) - 1)
    for i in range(len(edges)):
        visible = min(max(step * i + offset, low), high)
        at = (visible - near) * per_unit
        edges[i] = (at if at < cells else cells) if at > 0 else 0.0


@njit_cached
def _overlap(cells: Floats, down: Doubles, across: Doubles, strips: Floats, tokens: Floats) -> None:
    """Add each cell's mass to tokens [gh, gw], which are zero before, by the share that lies between their edges."""
    gh, gw = tokens.shape
    w = cells.shape[1]
    for i in range(gh):
        low, high = min(down[i], down[i + 1]), max(down[i], down[i + 1])
        strip = strips[i]
        strip[:] = 0
        for k in range(int(low), math.ceil(high)):
            share = np.float32(min(high, k + 1.0) - max(low, float(k)))
            row = cells[k]
            for j in range(w):
                strip[j] += share * row[j]
    for j in range(gw):
        low, high = min(across[j], across[j + 1]), max(across[j], across[j + 1])
        for k in range(int(low), math.ceil(high)):
            share = np.float32(min(high, k + 1.0) - max(low, float(k)))
            for i in range(gh):
                tokens[i, j] += share * strips[i, k]


@njit_cached
def _sample(
    cells: Floats,
    to_cells: tuple[float, float, float, float, float, float],
    low: tuple[float, float],
    high: tuple[float, float],
    samples: int,
    tokens: Floats,
) -> None:
    """Mean mass of the cells at samples x samples points of each token, times the token's area in cells."""
    gh, gw = tokens.shape
    a, b, c, d, e, f = to_cells
    area = np.float32(abs(a * e - b * d) / (gh * gw) / (samples * samples))
    step_u, step_v = 1 / (gw * samples), 1 / (gh * samples)
    for i in range(gh):
        for p in range(samples):
            v = (i * samples + p + 0.5) * step_v
            row_x, row_y = b * v + c, e * v + f
            for j in range(gw):
                for q in range(samples):
                    u = (j * samples + q + 0.5) * step_u
                    x, y = a * u + row_x, d * u + row_y
                    if low[0] <= x < high[0] and low[1] <= y < high[1]:
                        # unsigned, because a signed index is first tested for being negative
                        tokens[i, j] += area * cells[np.uint32(np.int32(y)), np.uint32(np.int32(x))]
