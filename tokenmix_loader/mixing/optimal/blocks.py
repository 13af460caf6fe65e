"""Tokens in square numbers of blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from tokenmix_loader.batch import Grid
from tokenmix_loader.mixing.optimal.cut import Doubles
from tokenmix_loader.shapes import require_count


def divisors(grid: Grid) -> tuple[int, ...]:
    """The numbers b > 1 for which b x b blocks of whole tokens fill the grid; (1,) where there is none."""
    common = math.gcd(*grid)
    return tuple(b for b in range(2, common + 1) if common % b == 0) or (1,)


def block_counts(where: str, chosen: int | Sequence[int] | None, grid: Grid) -> tuple[int, ...]:
    """The numbers of blocks per side that a setting allows, by default all; ValueError for one that does not divide.

    Without a setting also for a grid that no number divides.
    """
    fitting = divisors(grid)
    if chosen is None and fitting == (1,):
        raise ValueError(
            f"{where}: expected a grid whose sides have a common divisor, found {grid[0]} x {grid[1]}, of which "
            "only one block could be made, and nothing mixed; choose another grid, or another kind"
        )
    if chosen is None:
        return fitting
    counts = tuple(chosen) if isinstance(chosen, Sequence) else (require_count(where, chosen),)
    if not counts or any(count not in (1, *fitting) for count in counts):
        raise ValueError(
            f"{where}: expected divisors of the {grid[0]} x {grid[1]} grid, {', '.join(map(str, fitting))}, found "
            f"{chosen}; choose among them, or None"
        )
    return counts


def require_blocks(where: str, chosen: int | Sequence[int] | None) -> None:
    """Raise TypeError unless it is None, a whole number or a sequence of such, ValueError for none or below 1."""
    counts = [chosen] if not isinstance(chosen, list | tuple) else chosen
    if not len(counts):
        raise ValueError(f"{where}: expected numbers of blocks, found {chosen!r}; pass one, or None for all")
    for count in counts if chosen is not None else ():
        require_count(where, count)


def pool_saliency(guide: torch.Tensor, blocks: int) -> Doubles:
    """What tokens [B, gh, gw] >= 0 hold in each of b x b blocks: shares [B, b, b], equal ones where that is nothing."""
    batch, gh, gw = guide.shape
    sums = guide.double().reshape(batch, blocks, gh // blocks, blocks, gw // blocks).sum(dim=(2, 4))
    total = sums.sum(dim=(1, 2), keepdim=True)
    shares: Doubles = torch.where(total > 0, sums / total, 1 / blocks**2).numpy()
    return shares


def to_tokens(values: torch.Tensor, grid: Grid) -> torch.Tensor:
    """What holds for blocks [..., b, b], for each of their tokens: [..., gh, gw]."""
    rows, columns = (side // values.shape[-1] for side in grid)
    return values.repeat_interleave(rows, dim=-2).repeat_interleave(columns, dim=-1)
