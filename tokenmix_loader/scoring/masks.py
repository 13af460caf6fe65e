"""Which tokens of a mixed image come from which image.

A mask is boolean on the student's token grid, row-major: True = the token is kept from image a, False = it
comes from the partner b (TokenMix, Sec. 3.2; block-wise masks after BEiT).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from tokenmix_loader.batch import Grid
from tokenmix_loader.shapes import (
    require_choice,
    require_count,
    require_grid,
    require_number,
    require_rng,
    require_share,
)

Bools = npt.NDArray[np.bool_]
Window = tuple[slice, slice]

KINDS = ("block", "random", "region")
# At most half of the grid is ever covered, so nearly every block finds new tokens; after this many blocks, the tokens
# that are still missing are covered at once.
_MAX_BLOCKS = 64
_RELEASED_ATTEMPTS = 10


@dataclass(kw_only=True, eq=False)
class MaskSettings:
    """The settings of `sample_masks`, which explains them."""

    kind: str = "block"
    kept: float = 0.5
    beta: tuple[float, float] | None = None
    min_tokens: int = 14
    aspect: tuple[float, float] = (0.3, 1 / 0.3)
    per: str = "sample"
    variant: str = "exact"


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
    `per`: one mask per "sample", or one for the whole "batch", which is stored once. Results depend on `rng` alone.

    `variant="released"` (block only) does what the published code does: the limit of replaced tokens is
    `min_tokens` above the count asked for, blocks may be as small as one token, a block that would pass the
    limit is drawn again, and ten failures in a row end the mask. At 14 x 14 and kept=0.5 the mean kept share
    is 0.43, not 0.5.

    Raises ValueError for a setting out of range, TypeError for one of another type.
    """
    require_rng("sample_masks: rng", rng)
    settings = MaskSettings(
        kind=kind, kept=kept, beta=beta, min_tokens=min_tokens, aspect=aspect, per=per, variant=variant
    )
    return draw_masks(rng, batch, grid, settings)


def draw_masks(rng: np.random.Generator, batch: int, grid: Grid, chosen: MaskSettings) -> torch.Tensor:
    """`sample_masks` with its settings in one object."""
    require_choice("sample_masks: kind", chosen.kind, KINDS)
    check_mask_settings(batch, grid, chosen)
    draws = batch if chosen.per == "sample" else 1
    shares = [chosen.kept] * draws if chosen.beta is None else rng.beta(*chosen.beta, size=draws).tolist()
    counts = [count_kept(share, grid) for share in shares]
    if chosen.kind == "random":
        masks = _random(rng, counts, grid)
    else:
        shape = _Shape(grid, chosen.min_tokens, chosen.aspect)
        draw = _released if chosen.variant == "released" else _blocks if chosen.kind == "block" else _region
        masks = np.array([draw(rng, count, shape) for count in counts])
    return torch.from_numpy(masks).expand(batch, *grid)


def without_copies(masks: torch.Tensor) -> torch.Tensor:
    """[1, gh, gw] where all masks [B, gh, gw] are views of one, stored once; else `masks`."""
    return masks[:1] if masks.stride(0) == 0 else masks


def count_kept(share: float, grid: Grid) -> int:
    """The number of tokens nearest to a share of the grid; the larger one of two."""
    return math.floor(share * (grid[0] * grid[1]) + 0.5)


def _random(rng: np.random.Generator, counts: Sequence[int], grid: Grid) -> Bools:
    order = rng.permuted(np.tile(np.arange(grid[0] * grid[1]), (len(counts), 1)), axis=1)
    return (order < np.array(counts)[:, None]).reshape(-1, *grid)


def _region(rng: np.random.Generator, kept: int, shape: _Shape) -> Bools:
    """All but one rectangle, filled row by row."""
    mask = np.ones(shape.grid, np.bool_)
    if replaced := mask.size - kept:
        _, width = _block_size(rng, replaced, shape)
        mask[_place(rng, -(-replaced // width), width, shape.grid)].flat[:replaced] = False
    return mask


def _blocks(rng: np.random.Generator, kept: int, shape: _Shape) -> Bools:
    replaced = shape.grid[0] * shape.grid[1] - kept
    covered = _cover(rng, min(kept, replaced), shape)
    return covered if kept < replaced else ~covered


def _cover(rng: np.random.Generator, count: int, shape: _Shape) -> Bools:
    """Exactly `count` tokens in blocks."""
    covered = np.zeros(shape.grid, np.bool_)
    missing, smallest = count, min(count, shape.min_tokens)
    for _ in range(_MAX_BLOCKS):
        if not missing:
            return covered
        height, width = _block_size(rng, _uniform(rng, smallest, max(smallest, missing)), shape)
        missing -= _fill(rng, covered[_place(rng, height, width, shape.grid)], missing)
    _fill(rng, covered, missing)
    return covered


def _fill(rng: np.random.Generator, window: Bools, limit: int) -> int:
    """Cover a part of the grid, in place, and return how many tokens are new.

    Where more than `limit` would be, it is the first or, with equal odds, the last of them in row order.
    """
    free = window.size - int(np.count_nonzero(window))
    if free <= limit:
        window[:] = True
        return free
    rows, columns = (~window).nonzero()
    chosen = slice(free - limit, None) if rng.random() < 0.5 else slice(limit)
    window[rows[chosen], columns[chosen]] = True
    return limit


def _released(rng: np.random.Generator, kept: int, shape: _Shape) -> Bools:
    """Cover at most a limit of tokens the way the published code does; see `sample_masks`."""
    gh, gw = shape.grid
    mask = np.ones(shape.grid, np.bool_)
    failures, missing = 0, min(gh * gw - kept + shape.min_tokens, gh * gw)
    while missing and failures < _RELEASED_ATTEMPTS:
        area, ratio = _uniform(rng, 1, missing), _log_uniform(rng, shape.aspect)
        height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        fits = 0 < height < gh and 0 < width < gw
        window = mask[_place(rng, height, width, shape.grid)] if fits else mask[:0]
        new = int(np.count_nonzero(window))
        if 0 < new <= missing:
            window[:] = False
            missing, failures = missing - new, 0
        else:
            failures += 1
    return mask


def _block_size(rng: np.random.Generator, area: float, shape: _Shape) -> tuple[int, int]:
    """Height and width of a rectangle that fits the grid and holds at least `area` tokens."""
    gh, gw = shape.grid
    height = min(max(round(math.sqrt(area * _log_uniform(rng, shape.aspect))), 1), gh)
    width = min(math.ceil(area / height), gw)
    return max(height, math.ceil(area / width)), width


def _place(rng: np.random.Generator, height: int, width: int, grid: Grid) -> Window:
    """A rectangle of this size at a uniform place inside the grid."""
    top, left = int(rng.random() * (grid[0] - height + 1)), int(rng.random() * (grid[1] - width + 1))
    return slice(top, top + height), slice(left, left + width)


def _uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


def _log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    low, high = bounds
    return low * math.pow(high / low, rng.random())


def check_mask_settings(batch: int, grid: Grid, chosen: MaskSettings) -> None:
    """Raise ValueError for a setting of `sample_masks` out of range, TypeError for one of another type.

    Which kinds there are is the caller's to check.
    """
    require_grid("sample_masks: grid", grid)
    require_choice("sample_masks: per", chosen.per, ("sample", "batch"))
    require_choice("sample_masks: variant", chosen.variant, ("exact", "released"))
    require_count("sample_masks: batch", batch)
    require_share("sample_masks: kept", chosen.kept)
    require_count("sample_masks: min_tokens", chosen.min_tokens)
    if chosen.beta is not None:
        _require_pair("beta", chosen.beta, "two positive numbers")
    _require_pair("aspect", chosen.aspect, "0 < low <= high")
    exact, kind = chosen.variant == "exact", chosen.kind
    rules = (
        ("aspect", chosen.aspect[0] <= chosen.aspect[1], "0 < low <= high", chosen.aspect),
        ("variant 'released'", exact or kind == "block", "kind 'block'", kind),
        ("variant 'released'", exact or chosen.beta is None, "a fixed share, without beta", chosen.beta),
    )
    for name, holds, expected, found in rules:
        if not holds:
            raise ValueError(f"sample_masks: {name}: expected {expected}, found {found!r}; change the setting")


def _require_pair(name: str, found: tuple[float, float], expected: str) -> None:
    """TypeError for a pair of anything but numbers, ValueError for no pair, or one of numbers that are not positive."""
    if np.shape(found) != (2,):
        raise ValueError(f"sample_masks: {name}: expected {expected}, found {found!r}; change the setting")
    for number in found:
        require_number(f"sample_masks: {name}", number, expected, np.finfo(float).tiny)
