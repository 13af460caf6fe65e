"""Puzzle Mix (Kim, Choo, Song; arXiv 2009.06962): a mask of three levels, and blocks that move to where it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from timm.data.constants import IMAGENET_DEFAULT_STD

from tokenmix_loader.batch import Grid, TokenSources
from tokenmix_loader.mixing.optimal.blocks import block_counts, pool_saliency, require_blocks, to_tokens
from tokenmix_loader.mixing.optimal.borders import Borders, measure_borders
from tokenmix_loader.mixing.optimal.cut import LEVELS, Doubles, Ints, best_levels
from tokenmix_loader.mixing.optimal.transport import best_origins
from tokenmix_loader.shapes import require_number, require_share

_LEAST_SHARE = 1e-8  # of the prior, whose logarithm must be finite


@dataclass(frozen=True, kw_only=True)
class PuzzleSettings:
    """Hyper-parameters of Puzzle Mix, with the paper's letters and the values of its 300 epochs on ImageNet.

    `beta`: how much neighbouring blocks of different images cost. `gamma` from 0 to 1: how much more where their
    pixels do not fit together; 0 needs no look at the pixels. `eta`: how much the drawn share of image a counts,
    Beta(`alpha`, `alpha`). `xi`: what moving a block costs.
    `blocks` per side of the square mask, one of them drawn for each batch; None: all divisors of the student's grid
    but 1, so 2, 4, 8, 16 for a grid of 16 tokens, as published, and 2, 7, 14 for one of 14. `std`: what images of
    floats were divided by when they were normalised, per channel.
    """

    beta: float = 1.2
    gamma: float = 0.5
    eta: float = 0.2
    xi: float = 0.8
    alpha: float = 1.0
    blocks: int | Sequence[int] | None = None
    std: Sequence[float] = IMAGENET_DEFAULT_STD

    def __post_init__(self) -> None:
        for name in ("beta", "eta", "xi"):
            require_number(f"PuzzleSettings: {name}", getattr(self, name), "a number of at least 0", 0)
        # Above 1, borders that fit together well could be rewarded for nothing else, and no cut could say so.
        require_share("PuzzleSettings: gamma", self.gamma)
        require_blocks("PuzzleSettings: blocks", self.blocks)
        if not isinstance(self.std, list | tuple) or not self.std:
            raise TypeError(f"PuzzleSettings: std: expected one number per channel, found {self.std!r}; pass a tuple")
        for each in self.std:
            require_number("PuzzleSettings: std", each, "numbers above 0", np.finfo(float).tiny)
        require_number("PuzzleSettings: alpha", self.alpha, "a number above 0", np.finfo(float).tiny)


def puzzle_sources(
    rng: np.random.Generator, guide: torch.Tensor, images: torch.Tensor, chosen: PuzzleSettings, per: str = "batch"
) -> TokenSources:
    """Where the tokens of a batch come from that is mixed with itself in reverse order.

    `guide` [B, gh, gw] >= 0 on the CPU: what matters in each token, on any scale; `images` [B, C, H, W], see
    `measure_borders`. `per`: the drawn share is one per "batch", as published, or one per "sample". An image that is
    its own partner stays as it is.
    """
    batch, gh, gw = guide.shape
    blocks = int(rng.choice(block_counts("puzzle_sources: blocks", chosen.blocks, (gh, gw))))
    shares = rng.beta(chosen.alpha, chosen.alpha, size=batch if per == "sample" else 1)
    saliency = pool_saliency(guide, blocks)
    costs = level_costs(saliency, shares, chosen.eta)
    down, right = np.ones((batch, blocks - 1, blocks)), np.ones((batch, blocks, blocks - 1))
    smoothness = chosen.beta / (16 * blocks)
    if chosen.gamma > 0 and smoothness > 0:
        borders = measure_borders(images, blocks, chosen.std)
        costs += smoothness * chosen.gamma * border_costs(*borders)
        down, right = (1 + chosen.gamma * each.excess() for each in borders)
    levels = best_levels(costs, smoothness * down, smoothness * right)
    origins = _origins(saliency, levels, chosen.xi)
    if batch % 2:
        levels[batch // 2], origins[batch // 2] = 1, np.arange(blocks**2)
    return _sources(levels, origins, (gh, gw))


def level_costs(saliency: Doubles, shares: Doubles, eta: float) -> Doubles:
    """What each level costs in each block, [B, 3, b, b], by itself: what it hides, and how unlikely it is.

    `saliency` [B, b, b]; a level z has 2 z from Binomial(2, share), `shares` [B] or [1] of image a.
    """
    share = np.clip(shares, _LEAST_SHARE, 1 - _LEAST_SHARE)[:, None, None]
    prior = np.stack((2 * np.log1p(-share), np.log(2 * share) + np.log1p(-share), 2 * np.log(share)), axis=1)
    shown = _between(saliency[::-1], saliency)
    costs: Doubles = -shown - eta / saliency[0].size * prior
    return costs


def border_costs(down: Borders, right: Borders) -> Doubles:
    """What each level costs in each block, [B, 3, b, b], by the borders around it: half of what they may come to.

    Together with `Borders.excess` times (z_i - z_j)^2 it is, up to a constant, exact where levels are 0 and 1.
    """
    batch, _, blocks = down.own.shape
    own, partner = np.zeros((2, batch, blocks, blocks))
    parts = (down, np.s_[:, :-1], np.s_[:, 1:]), (right, np.s_[:, :, :-1], np.s_[:, :, 1:])
    for border, first, second in parts:
        own[first] += border.own + border.cross
        own[second] += border.own + border.cross[::-1]
        partner[first] += border.own[::-1] + border.cross[::-1]
        partner[second] += border.own[::-1] + border.cross
    return _between(partner, own) / 2


def _between(of_partner: Doubles, of_own: Doubles) -> Doubles:
    """Linear in the level."""
    return np.stack([level * of_own + (1 - level) * of_partner for level in LEVELS], axis=1)


def _origins(saliency: Doubles, levels: Doubles, xi: float) -> Ints:
    """Which blocks of image i and of its partner come to each place: [B, 2, b * b]."""
    return np.stack((best_origins(saliency, levels > 0, xi), best_origins(saliency[::-1], levels < 1, xi)), axis=1)


def _sources(levels: Doubles, origins: Ints, grid: Grid) -> TokenSources:
    batch, blocks = len(levels), levels.shape[1]
    (gh, gw), own = grid, torch.arange(batch)
    image = torch.stack((own, own.flip(0)), dim=1)[:, :, None, None].expand(batch, 2, gh, gw)
    weight = torch.from_numpy(np.stack((levels, 1 - levels), axis=1).astype(np.float32))
    parts = np.divmod(origins.reshape(batch, 2, blocks, blocks), blocks)
    row, column = (to_tokens(torch.from_numpy(part), grid) for part in parts)
    rows, columns = gh // blocks, gw // blocks
    y = row * rows + (torch.arange(gh) % rows)[:, None]
    x = column * columns + torch.arange(gw) % columns
    return TokenSources(image, y * gw + x, to_tokens(weight, grid))
