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

from tokenmix_loader.shapes import Grid, require_choice, require_grid

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
# Tokens as the bits of one number, the first token lowest: a block is a product, its new tokens are one `&`. That
# makes one mask per batch, the default, cheap; arrays would be cheaper for one per sample.
Bits = int

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
    `per`: one mask per "sample", or one shared by the "batch", in its memory, too. Results depend on `rng` alone.

    `variant="released"` (block only) does what the published code does: the limit of replaced tokens is
    `min_tokens` above the count asked for, blocks may be as small as one token, a block that would pass the
    limit is drawn again, and ten failures in a row end the mask. At 14 x 14 and kept=0.5 the mean kept share
    is 0.43, not 0.5.

    Raises ValueError for a setting out of range.
    """
    _check(batch, grid, kind, kept, beta, min_tokens, aspect, per, variant)
    draws = batch if per == "sample" else 1
    total = grid[0] * grid[1]
    shares = [kept] * draws if beta is None else rng.beta(*beta, size=draws).tolist()
    counts = [math.floor(share * total + 0.5) for share in shares]
    if kind == "random":
        masks = _random(rng, counts, grid)
    else:
        shape = _Shape(grid, min_tokens, aspect)
        draw = _released if variant == "released" else _blocks if kind == "block" else _region
        masks = _unpack([draw(rng, count, shape) for count in counts], grid)
    return torch.from_numpy(masks).expand(batch, *grid)


def guided_masks(
    rng: np.random.Generator, tokens: torch.Tensor, kind: str = "attentive", *, kept: float = 0.5
) -> torch.Tensor:
    """Masks that follow the evidence, bool [B, gh, gw], for comparison with blocks (TokenMix, Table 3).

    `tokens` [B, gh, gw] is `align`'s result; partners are the batch in reverse order. `attentive`: image a keeps
    its tokens of most evidence. `peak`: a rectangle of the grid's aspect is replaced around the partner's token
    of most evidence, inside the grid, its last or first row cut to the count. Counts are those of `sample_masks`;
    ties are drawn by lot. Raises ValueError for an unknown kind or a share out of range.
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


def distinct(masks: torch.Tensor) -> torch.Tensor:
    """[1, gh, gw] of masks [B, gh, gw] that are one in memory, else the same."""
    return masks[:1] if masks.stride(0) == 0 else masks


def _around(peak: Ints, count: int, grid: Grid) -> Bools:
    """A rectangle of `count` tokens around each token `peak` (row-major number), filled row by row."""
    gh, gw = grid
    height = max(1, round(gh * np.sqrt(count / (gh * gw))))
    width = max(1, min(gw, -(-count // height)))
    rows = _centred(peak // gw, -(-count // width), gh)
    columns = _centred(peak % gw, width, gw)
    rectangle = rows[:, :, None] & columns[:, None, :]
    rank = _rank(rectangle)
    # The last row is cut to the count, or the first where that would leave out the peak.
    last = rank.reshape(len(peak), -1)[np.arange(len(peak)), peak] > count
    cut = rectangle.sum(axis=(1, 2), dtype=np.int32) - count
    return rectangle & np.where(last[:, None, None], rank > cut[:, None, None], rank <= count)


def _centred(middle: Ints, length: int, size: int) -> Bools:
    start = np.clip(middle - length // 2, 0, size - length)[:, None]
    at = np.arange(size)
    return (at >= start) & (at < start + length)


def _random(rng: np.random.Generator, counts: Sequence[int], grid: Grid) -> Bools:
    order = rng.permuted(np.tile(np.arange(grid[0] * grid[1]), (len(counts), 1)), axis=1)
    return (order < np.array(counts)[:, None]).reshape(-1, *grid)


def _region(rng: np.random.Generator, kept: int, shape: _Shape) -> Bits:
    """All but one rectangle, filled row by row."""
    everything, count = _everything(shape.grid), shape.grid[0] * shape.grid[1] - kept
    if not count:
        return everything
    _, width = _block_size(rng, count, shape)
    return everything ^ _first(_block(rng, -(-count // width), width, shape.grid), count)


def _blocks(rng: np.random.Generator, kept: int, shape: _Shape) -> Bits:
    replaced = shape.grid[0] * shape.grid[1] - kept
    covered = _cover(rng, min(kept, replaced), shape)
    return covered if kept < replaced else _everything(shape.grid) ^ covered


def _cover(rng: np.random.Generator, count: int, shape: _Shape) -> Bits:
    """Exactly `count` tokens in blocks."""
    covered, missing, smallest = 0, count, min(count, shape.min_tokens)
    for _ in range(_MAX_ROUNDS):
        if not missing:
            return covered
        height, width = _block_size(rng, _uniform(rng, smallest, max(smallest, missing)), shape)
        fresh = _trim(rng, _block(rng, height, width, shape.grid) & ~covered, missing)
        covered |= fresh
        missing -= fresh.bit_count()
    return covered | _trim(rng, _everything(shape.grid) ^ covered, missing)


def _released(rng: np.random.Generator, kept: int, shape: _Shape) -> Bits:
    """Cover at most a limit of tokens the way the published code does; see `sample_masks`."""
    gh, gw = shape.grid
    covered, failures, missing = 0, 0, min(gh * gw - kept + shape.min_tokens, gh * gw)
    while missing and failures < _RELEASED_ATTEMPTS:
        area, ratio = _uniform(rng, 1, missing), _log_uniform(rng, shape.aspect)
        height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        fits = 0 < height < gh and 0 < width < gw
        fresh = _block(rng, height, width, shape.grid) & ~covered if fits else 0
        taken = 0 < fresh.bit_count() <= missing
        covered |= fresh if taken else 0
        missing -= fresh.bit_count() if taken else 0
        failures = 0 if taken else failures + 1
    return _everything(shape.grid) ^ covered


def _block_size(rng: np.random.Generator, area: float, shape: _Shape) -> tuple[int, int]:
    """Height and width of a rectangle that fits the grid and holds at least `area` tokens."""
    gh, gw = shape.grid
    height = min(max(round(math.sqrt(area * _log_uniform(rng, shape.aspect))), 1), gh)
    width = min(math.ceil(area / height), gw)
    return max(height, math.ceil(area / width)), width


def _block(rng: np.random.Generator, height: int, width: int, grid: Grid) -> Bits:
    """A rectangle at a uniform place inside the grid."""
    gh, gw = grid
    top, left = int(rng.random() * (gh - height + 1)), int(rng.random() * (gw - width + 1))
    rows = ((1 << gw * height) - 1) // ((1 << gw) - 1)  # the first token of each row
    return rows * ((1 << width) - 1) << top * gw + left


def _everything(grid: Grid) -> Bits:
    return (1 << grid[0] * grid[1]) - 1


def _trim(rng: np.random.Generator, tokens: Bits, limit: int) -> Bits:
    """At most `limit` of the tokens: the first or, by a coin's fall, the last in row order."""
    if tokens.bit_count() <= limit:
        return tokens
    return _last(tokens, limit) if rng.random() < 0.5 else _first(tokens, limit)


def _first(tokens: Bits, limit: int) -> Bits:
    for _ in range(tokens.bit_count() - limit):
        tokens ^= 1 << tokens.bit_length() - 1
    return tokens


def _last(tokens: Bits, limit: int) -> Bits:
    for _ in range(tokens.bit_count() - limit):
        tokens &= tokens - 1
    return tokens


def _unpack(masks: Sequence[Bits], grid: Grid) -> Bools:
    total = grid[0] * grid[1]
    raw = b"".join(mask.to_bytes(-(-total // 8), "little") for mask in masks)
    packed = np.frombuffer(raw, np.uint8).reshape(len(masks), -1)
    return np.unpackbits(packed, axis=1, count=total, bitorder="little").view(np.bool_).reshape(-1, *grid)


def _uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


def _log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    low, high = bounds
    return low * math.pow(high / low, rng.random())


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
    pair = np.shape(aspect) == (2,)
    # Messages are put together where they are needed: this runs for every batch.
    rules = (
        (batch >= 1, "batch: expected at least 1, found {batch}"),
        (0 <= kept <= 1, "kept: expected a share from 0 to 1, found {kept}"),
        (
            beta is None or (np.shape(beta) == (2,) and min(beta) > 0),
            "beta: expected two positive numbers, found {beta}",
        ),
        (min_tokens >= 1, "min_tokens: expected at least 1, found {min_tokens}"),
        (pair and 0 < aspect[0] <= aspect[1] < math.inf, "aspect: expected 0 < low <= high, found {aspect}"),
        (variant == "exact" or kind == "block", "variant 'released': expected kind 'block', found {kind!r}"),
        (variant == "exact" or beta is None, "variant 'released': expected a fixed share, found beta={beta}"),
    )
    for holds, message in rules:
        if not holds:
            given = {
                "batch": batch,
                "kept": kept,
                "beta": beta,
                "min_tokens": min_tokens,
                "aspect": aspect,
                "kind": kind,
            }
            raise ValueError(f"sample_masks: {message.format(**given)}; change the setting")
