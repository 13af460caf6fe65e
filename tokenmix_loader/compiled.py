"""`align` and `mix_targets` on a CPU as compiled loops, where numba is installed (extra `fast`).

The same numbers, at a fraction: with tensors, most of the time goes into beginning an operation and into what lies
between two of them. `geometry` and `targets` are the definitions, on every device; tests hold them together with
these. Only indices that were compared with a map's size are used, so no number that is passed in, not even nan,
reads beyond a map.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]
Scratch = tuple[Floats, Floats, Doubles, Doubles, Floats]

_SAMPLES = 2  # `align`'s default
_ZERO = np.float32(0)
_HALF, _EIGHTH = np.float32(0.5), np.float32(0.125)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled at its first call, or taken from numba's cache on the disk if there is a folder that it can write.

    Sums may be taken in any order, several numbers at a time.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": {"reassoc", "nsz", "contract"}}
    try:
        compiled: Callable[..., Any] = numba.njit(cache=True, **options)(function)
    except RuntimeError:
        compiled = numba.njit(**options)(function)
    return compiled


def try_out() -> None:
    """Have everything compiled; raises what numba raises where that cannot be."""
    views = bounds = np.array([[0.0, 0, 1, 1]])
    for affine in ((1.0, 0, 0, 0, 1, 0), (0, 1.0, 0, 1, 0, 0), (1.0, 0.5, 0, 0, 1, 0)):
        affines = np.array(affine).reshape(1, 2, 3)
        tokens = align_arrays(np.ones((1, 1, 1), np.float32), views, affines, bounds, (1, 1), 1, True)
        align_logits(np.ones((1, 1, 1), np.float32), np.ones(1, np.bool_), views, affines, bounds, (1, 1))
    zero = np.zeros(1, np.int64)
    if not (are_sound(views, affines, bounds) and are_within(zero, 1)):
        raise RuntimeError("other results than before compilation")
    mix_arrays(tokens, tokens, zero, zero, 1, 0.1, 0.1)
    pixels = np.zeros((1, 1, 1, 1), np.uint8)
    for mixed in (None, pixels.copy()):
        mix_bytes(pixels, np.ones((1, 1, 1), np.bool_), mixed)


@_compiled
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


@_compiled
def align_logits(
    maps: Floats, present: Bools, views: Doubles, affines: Doubles, bounds: Doubles, grid: tuple[int, int]
) -> Floats | None:
    """`align` of what `evidence` and `normalise` make of logits [B, h, w], refined; of those `present` [B].

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
            _align_one(evidence, views[i], affines[i], bounds[i], _SAMPLES, True, scratch, tokens[i])
            tokens[i] /= mass
    return tokens


@_compiled
def _new_scratch(h: int, w: int, grid: tuple[int, int], refined: bool) -> Scratch:
    """What `_align_one` writes to: halved and fine cells, token edges along y and x, and strips of tokens."""
    fold, longest = 2 if refined else 1, max(grid)
    return (
        np.empty((h, fold * w), np.float32),
        np.empty((fold * h, fold * w), np.float32),
        np.empty(longest + 1),
        np.empty(longest + 1),
        np.empty((longest, fold * w), np.float32),
    )


@_compiled
def _align_one(
    cells: Floats, view: Doubles, affine: Doubles, bound: Doubles, samples: int, refined: bool, scratch: Scratch,
    tokens: Floats,
) -> None:  # fmt: skip
    """One map [h, w] on tokens [gh, gw], zero before."""
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


@_compiled
def are_sound(views: Doubles, affines: Doubles, bounds: Doubles) -> bool:
    """Whether no view is empty and all numbers are finite, as `align` wants them."""
    for i in range(len(views)):
        x0, y0, x1, y1 = views[i]
        if not (x0 < x1 and y0 < y1):
            return False
        for numbers in (views[i], affines[i].ravel(), bounds[i]):
            for number in numbers:
                if not math.isfinite(number):
                    return False
    return True


@_compiled
def are_within(numbers: Ints, end: int) -> bool:
    """Whether all are from 0 to end - 1."""
    for number in numbers:  # noqa: SIM110 -- generators are not compiled
        if number < 0 or number >= end:
            return False
    return True


@_compiled
def _refine(cells: Floats, halved: Floats, fine: Floats, first: int, last: int) -> None:
    """`geometry.refine` of cells [h, w], by way of halved [h, 2w], into fine [2h, 2w]: of rows [first, last)."""
    h, w = cells.shape
    for i in range(max(first - 1, 0), min(last + 1, h)):
        row = cells[i]
        for j in range(w):
            half = row[j] * _HALF
            before, behind = row[j - 1] if j > 0 else row[j], row[j + 1] if j + 1 < w else row[j]
            lean = min(max((behind - before) * _EIGHTH, -half), half)
            halved[i, 2 * j] = half - lean
            halved[i, 2 * j + 1] = half + lean
    for i in range(first, last):
        above, here, below = halved[max(i - 1, 0)], halved[i], halved[min(i + 1, h - 1)]
        upper, lower = fine[2 * i], fine[2 * i + 1]
        for j in range(2 * w):
            half = here[j] * _HALF
            lean = min(max((below[j] - above[j]) * _EIGHTH, -half), half)
            upper[j] = half - lean
            lower[j] = half + lean


@_compiled
def _put_edges(
    edges: Doubles, scale: float, offset: float, low: float, high: float, near: float, per_unit: float, cells: int
) -> None:
    """Where tokens begin and the last one ends along an axis, in cells and within them."""
    step = scale / (len(edges) - 1)
    for i in range(len(edges)):
        visible = min(max(step * i + offset, low), high)
        at = (visible - near) * per_unit
        edges[i] = (at if at < cells else cells) if at > 0 else 0.0


@_compiled
def _overlap(cells: Floats, down: Doubles, across: Doubles, strips: Floats, tokens: Floats) -> None:
    """Each cell's mass to tokens [gh, gw], zero before, by the share of it that lies between their edges."""
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


@_compiled
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
                        # unsigned: a signed index would be asked whether it counts from the end
                        tokens[i, j] += area * cells[np.uint32(np.int32(y)), np.uint32(np.int32(x))]


@_compiled
def mix_arrays(
    tokens: Floats,
    masks: Floats,
    labels: Ints,
    partner: Ints,
    num_classes: int,
    smoothing: float,
    min_evidence: float,
) -> Floats:
    """`mix_targets` with supervision tokenmix, of tokens [B, gh, gw] and masks [B or 1, gh, gw], checked."""
    batch, gh, gw = tokens.shape
    targets = np.empty((batch, num_classes), np.float32)
    for i in range(batch):
        j = partner[i]
        mask = masks[i if len(masks) > 1 else 0]
        area = shown_a = shown_b = mass_a = mass_b = np.float32(0)
        for y in range(gh):
            for x in range(gw):
                kept, of_a, of_b = mask[y, x], tokens[i, y, x], tokens[j, y, x]
                area += kept
                shown_a += of_a * kept
                shown_b += of_b * (1 - kept)
                mass_a += of_a
                mass_b += of_b
        area /= gh * gw
        score_a = min(max(shown_a / mass_a, 0.0), 1.0) if mass_a >= min_evidence else area
        score_b = min(max(shown_b / mass_b, 0.0), 1.0) if mass_b >= min_evidence else 1 - area
        total = score_a + score_b
        if labels[i] == labels[j]:
            score_a = score_b = total = min(total, 1.0)
        everywhere = total * smoothing / num_classes
        targets[i] = everywhere
        targets[i, labels[i]] = score_a * (1 - smoothing) + everywhere
        targets[i, labels[j]] = score_b * (1 - smoothing) + everywhere
    return targets


@_compiled
def mix_bytes(images: Bytes, masks: Bools, mixed: Bytes | None) -> None:
    """`mix_images` of the bytes [B, C, H, W] of images whose rows hold gw tokens, masks [B or 1, gh, gw].

    Into `mixed`, other memory of the same shape, or in place.
    """
    batch, channels, height, width = images.shape
    gh, gw = masks.shape[1:]
    rows, columns = height // gh, width // gw
    # All bits of what is replaced, so that a row of pixels is a few wide operations and no question.
    replaced = np.empty((len(masks), gh, width), np.uint8)
    for k in range(len(masks)):
        for y in range(gh):
            for x in range(width):
                replaced[k, y, x] = 0 if masks[k, y, x // columns] else 255
    for i in range((batch + 1) // 2):
        j = batch - 1 - i
        of_i, of_j = replaced[i if len(masks) > 1 else 0], replaced[j if len(masks) > 1 else 0]
        for channel in range(channels):
            for y in range(height):
                row_i, row_j = images[i, channel, y], images[j, channel, y]
                if mixed is None:
                    _swap_row(row_i, row_j, of_i[y // rows], of_j[y // rows])
                else:
                    _mix_row(row_i, row_j, of_i[y // rows], mixed[i, channel, y])
                    _mix_row(row_j, row_i, of_j[y // rows], mixed[j, channel, y])


@_compiled
def _swap_row(row_i: Bytes, row_j: Bytes, of_i: Bytes, of_j: Bytes) -> None:
    for x in range(len(row_i)):
        difference = row_i[x] ^ row_j[x]
        row_i[x] ^= difference & of_i[x]
        row_j[x] ^= difference & of_j[x]


@_compiled
def _mix_row(row: Bytes, other: Bytes, replaced: Bytes, mixed: Bytes) -> None:
    for x in range(len(row)):
        mixed[x] = row[x] ^ ((row[x] ^ other[x]) & replaced[x])
