"""Which tokens of a mixed image come from which image.

A mask is boolean on the student's token grid, row-major: True = the token is kept from image a, False = it
comes from the partner b (TokenMix, Sec. 3.2; block-wise masks after BEiT).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from tokenmix_loader.shapes import Grid, require_choice, require_grid

Bools = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

KINDS = ("block", "random", "region")
GUIDES = ("attentive", "peak")
# At most half of the grid is ever covered, so nearly every block finds new tokens; a rest is filled at once.
_MAX_ROUNDS = 64
_RELEASED_ATTEMPTS = 10


@dataclass(frozen=True)
class _Shape:
    """Blocks hold at least `min_tokens` tokens; height / width is log-uniform within `aspect`."""

    grid: Grid
    min_tokens: int
    aspect: tuple[float, float]


def sample_masks(
    rng: np.random.Generator,
    batch: int,
    grid: Grid,
    kind: str = "block",
    *,
    kept: float = 0.5,
    beta: tuple[float, float] | None = None,
    min_tokens: int = 14,
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
    per: str = "sample",
    variant: str = "exact",
) -> torch.Tensor:
    """Draw masks, bool [B, gh, gw], with exactly floor(kept * gh * gw + 1/2) tokens kept each.

    `block`: blocks of at least `min_tokens` tokens, height / width log-uniform within `aspect`, placed
    uniformly inside the grid; they cover the smaller of the kept and the replaced part (the replaced one at
    equality), and the last is trimmed to the count. `random`: a uniformly random subset. `region`: one
    replaced rectangle, its last row cut to the count. `beta` draws the kept share from Beta(a, b) instead.
    `per`: one mask per "sample", or one shared by the "batch". Results depend on `rng` alone.

    `variant="released"` (block only) does what the published code does: the limit of replaced tokens is
    `min_tokens` above the count asked for, blocks may be as small as one token, a block that would pass the
    limit is drawn again, and ten failures in a row end the mask. At 14 x 14 and kept=0.5 the mean kept share
    is 0.43, not 0.5.

    Raises ValueError for a setting out of range.
    """
    _check(batch, grid, kind, kept, beta, min_tokens, aspect, per, variant)
    draws = batch if per == "sample" else 1
    total = grid[0] * grid[1]
    share = np.full(draws, kept) if beta is None else rng.beta(*beta, size=draws)
    count = np.floor(share * total + 0.5).astype(np.int64)
    shape = _Shape(grid, min_tokens, aspect)
    if variant == "released":
        masks = ~_released(rng, np.minimum(total - count + min_tokens, total), shape)
    elif kind == "block":
        masks = _blocks(rng, count, shape)
    elif kind == "region":
        masks = ~_regions(rng, total - count, shape)
    else:
        masks = _random(rng, count, grid)
    return torch.from_numpy(np.broadcast_to(masks, (batch, *grid)).copy())


def guided_masks(
    rng: np.random.Generator, tokens: torch.Tensor, kind: str = "attentive", *, kept: float = 0.5
) -> torch.Tensor:
    """Masks that follow the evidence, bool [B, gh, gw], for comparison with blocks (TokenMix, Table 3).

    `tokens` [B, gh, gw] is `align`'s result; partners are the batch in reverse order. `attentive`: image a keeps
    its tokens of most evidence. `peak`: a rectangle of the grid's aspect is replaced around the partner's token
    of most evidence, inside the grid, its last row cut to the count. Counts are those of `sample_masks`; ties are
    drawn by lot. Raises ValueError for an unknown kind or a share out of range.
    """
    require_choice("guided_masks: kind", kind, GUIDES)
    if not 0 <= kept <= 1:
        raise ValueError(f"guided_masks: kept: expected a share from 0 to 1, found {kept}; change the setting")
    batch, gh, gw = tokens.shape
    flat = tokens.flatten(1).numpy()
    count = int(np.floor(kept * gh * gw + 0.5))
    by_evidence = np.lexsort((rng.random(flat.shape), -flat), axis=1)
    if kind == "attentive":
        masks = np.zeros(flat.shape, np.bool_)
        np.put_along_axis(masks, by_evidence[:, :count], True, axis=1)
        return torch.from_numpy(masks.reshape(batch, gh, gw))
    return torch.from_numpy(~_around(by_evidence[::-1, 0], gh * gw - count, (gh, gw)))


def _around(peak: Counts, count: int, grid: Grid) -> Bools:
    """A rectangle of `count` tokens around each token `peak` (row-major number), filled row by row."""
    gh, gw = grid
    height = max(1, round(gh * np.sqrt(count / (gh * gw))))
    width = max(1, min(gw, -(-count // height)))
    rows = _centred(peak // gw, -(-count // width), gh)
    columns = _centred(peak % gw, width, gw)
    rectangle = rows[:, :, None] & columns[:, None, :]
    return rectangle & (_rank(rectangle) <= count)


def _centred(middle: Counts, length: int, size: int) -> Bools:
    start = np.clip(middle - length // 2, 0, size - length)[:, None]
    at = np.arange(size)
    return (at >= start) & (at < start + length)


def _random(rng: np.random.Generator, count: Counts, grid: Grid) -> Bools:
    total = grid[0] * grid[1]
    order = rng.permuted(np.tile(np.arange(total), (len(count), 1)), axis=1)
    return (order < count[:, None]).reshape(-1, *grid)


def _regions(rng: np.random.Generator, count: Counts, shape: _Shape) -> Bools:
    """One rectangle of `count` tokens each, filled row by row."""
    area = np.maximum(count, 1)
    height, width = _block_size(rng, area.astype(np.float64), shape)
    height = -(-area // width)
    rows, columns = _place(rng, height, width, shape.grid)
    rectangle = rows[:, :, None] & columns[:, None, :]
    return rectangle & (_rank(rectangle) <= count[:, None, None])


def _blocks(rng: np.random.Generator, kept: Counts, shape: _Shape) -> Bools:
    replaced = shape.grid[0] * shape.grid[1] - kept
    covered = _cover(rng, np.minimum(kept, replaced), shape)
    return np.where((kept < replaced)[:, None, None], covered, ~covered)


def _cover(rng: np.random.Generator, count: Counts, shape: _Shape) -> Bools:
    """Cover exactly `count` tokens of each grid with blocks."""
    free: Bools = np.ones((len(count), *shape.grid), np.bool_)
    missing = count.copy()
    smallest = np.minimum(count, shape.min_tokens)
    for _ in range(_MAX_ROUNDS):
        open_ = np.flatnonzero(missing)
        if not len(open_):
            return ~free
        low, limit = smallest[open_], missing[open_]
        height, width = _block_size(rng, rng.uniform(low, np.maximum(low, limit)), shape)
        rows, columns = _place(rng, height, width, shape.grid)
        fresh = rows[:, :, None] & columns[:, None, :] & free[open_]
        new = np.count_nonzero(fresh, axis=(1, 2))
        over = np.flatnonzero(new > limit)  # ranking tokens costs more than all the rest: only where it is needed
        fresh[over] = _trim(rng, fresh[over], limit[over])
        free[open_] ^= fresh
        missing[open_] -= np.minimum(new, limit)
    return ~free | _trim(rng, free, missing)


def _released(rng: np.random.Generator, limit: Counts, shape: _Shape) -> Bools:
    """Cover at most `limit` tokens the way the published code does; see `sample_masks`."""
    gh, gw = shape.grid
    covered: Bools = np.zeros((len(limit), gh, gw), np.bool_)
    failures = np.zeros(len(limit), np.int64)
    while True:
        missing = limit - covered.sum(axis=(1, 2))
        open_ = np.flatnonzero((missing > 0) & (failures < _RELEASED_ATTEMPTS))
        if not len(open_):
            return covered
        area = rng.uniform(1, missing[open_])
        ratio = _log_uniform(rng, shape.aspect, len(open_))
        height = np.rint(np.sqrt(area * ratio)).astype(np.int64)
        width = np.rint(np.sqrt(area / ratio)).astype(np.int64)
        fits = (height > 0) & (height < gh) & (width > 0) & (width < gw)
        rows, columns = _place(rng, np.clip(height, 1, gh), np.clip(width, 1, gw), shape.grid)
        fresh = rows[:, :, None] & columns[:, None, :] & ~covered[open_]
        new = fresh.sum(axis=(1, 2))
        taken = fits & (new > 0) & (new <= missing[open_])
        covered[open_] |= fresh & taken[:, None, None]
        failures[open_] = np.where(taken, 0, failures[open_] + 1)


def _block_size(rng: np.random.Generator, area: Floats, shape: _Shape) -> tuple[Counts, Counts]:
    """Height and width of rectangles that fit the grid and hold at least `area` tokens each."""
    gh, gw = shape.grid
    ratio = _log_uniform(rng, shape.aspect, len(area))
    height = np.clip(np.rint(np.sqrt(area * ratio)), 1, gh)
    width = np.minimum(np.ceil(area / height), gw)
    height = np.maximum(height, np.ceil(area / width))
    return height.astype(np.int64), width.astype(np.int64)


def _log_uniform(rng: np.random.Generator, bounds: tuple[float, float], size: int) -> Floats:
    return np.exp(rng.uniform(np.log(bounds[0]), np.log(bounds[1]), size))


def _place(rng: np.random.Generator, height: Counts, width: Counts, grid: Grid) -> tuple[Bools, Bools]:
    """Uniform places inside the grid: the rows [n, gh] and columns [n, gw] that each rectangle takes."""
    return _interval(rng, height, grid[0]), _interval(rng, width, grid[1])


def _interval(rng: np.random.Generator, length: Counts, size: int) -> Bools:
    start = rng.integers(0, size - length + 1)[:, None]
    at = np.arange(size)
    return (at >= start) & (at < start + length[:, None])


def _trim(rng: np.random.Generator, tokens: Bools, limit: Counts) -> Bools:
    """At most `limit` of the tokens of each grid: the first or, by a coin's fall, the last in row order."""
    rank = _rank(tokens)
    last = rng.random(len(tokens)) < 0.5
    backwards = rank[:, -1:, -1:] - rank + 1
    return tokens & (np.where(last[:, None, None], backwards, rank) <= limit[:, None, None])


def _rank(tokens: Bools) -> npt.NDArray[np.int32]:
    """The how-manieth of its grid each token is, from 1, in row order."""
    flat = tokens.reshape(len(tokens), tokens.shape[1] * tokens.shape[2])
    return flat.cumsum(axis=1, dtype=np.int32).reshape(tokens.shape)


def _check(
    batch: int,
    grid: Grid,
    kind: str,
    kept: float,
    beta: tuple[float, float] | None,
    min_tokens: int,
    aspect: tuple[float, float],
    per: str,
    variant: str,
) -> None:
    require_grid("sample_masks: grid", grid)
    require_choice("sample_masks: kind", kind, KINDS)
    require_choice("sample_masks: per", per, ("sample", "batch"))
    require_choice("sample_masks: variant", variant, ("exact", "released"))
    rules = (
        (batch >= 1, f"batch: expected at least 1, found {batch}"),
        (0 <= kept <= 1, f"kept: expected a share from 0 to 1, found {kept}"),
        (beta is None or min(beta) > 0, f"beta: expected two positive numbers, found {beta}"),
        (min_tokens >= 1, f"min_tokens: expected at least 1, found {min_tokens}"),
        (0 < aspect[0] <= aspect[1], f"aspect: expected 0 < low <= high, found {aspect}"),
        (variant == "exact" or kind == "block", f"variant 'released': expected kind 'block', found {kind!r}"),
        (variant == "exact" or beta is None, f"variant 'released': expected a fixed share, found beta={beta}"),
    )
    for holds, message in rules:
        if not holds:
            raise ValueError(f"sample_masks: {message}; change the setting")
