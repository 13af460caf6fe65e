"""How well pixels fit together across the borders of blocks: Puzzle Mix's data smoothness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from tokenmix_loader.mixing.optimal.cut import Doubles

_POOL = 2  # px; the published `neigh_size` for ImageNet


class Borders(NamedTuple):
    """Mean absolute differences between the pixels on both sides of each border, of pixels in 0 to 1; each [B, ...].

    `own`: both sides show image i. `cross`: the block above, or on the left, shows image i, the other one its partner.
    """

    own: Doubles
    cross: Doubles

    def excess(self) -> Doubles:
        """By how much a border between the two images is worse than one within them: from -1 to 1."""
        return (self.cross + self.cross[::-1] - self.own - self.own[::-1]) / 2


def measure_borders(images: torch.Tensor, blocks: int, std: Sequence[float]) -> tuple[Borders, Borders]:
    """Borders to the block below, [B, b - 1, b], and to the next one, [B, b, b - 1], of b x b blocks.

    `images` [B, C, H, W], partners in reverse order: uint8, or normalised floats that were divided by `std`. Pixels are
    pooled two by two first. Raises ValueError where there is not one `std` per channel, and for pixels that are not
    finite.
    """
    scale = torch.full((1,), 1 / 255)
    if images.is_floating_point():
        if len(std) != images.shape[1]:
            raise ValueError(
                f"TokenMix: images: expected {len(std)} channels, as puzzle.std has, found {images.shape[1]}; "
                "set puzzle=PuzzleSettings(std=...) to what the images were divided by"
            )
        scale = torch.tensor(tuple(std))
    below, beside = (_measure(each, blocks, scale) for each in (images.detach(), images.detach().mT))
    if not all(np.isfinite(part).all() for part in (*below, *beside)):
        raise ValueError("TokenMix: images: expected finite pixels, found inf or nan; look at what made the images")
    return Borders(*below), Borders(*(part.swapaxes(1, 2) for part in beside))


def _measure(images: torch.Tensor, blocks: int, scale: torch.Tensor) -> list[Doubles]:
    above, below = _sides(images, blocks)
    pixels = above.shape[3] // blocks * (images.shape[3] // above.shape[3]) * min(_POOL, images.shape[2] // blocks)
    found = []
    for other in (below, below.flip(0)):
        steps = (above - other).abs_().reshape(*above.shape[:3], blocks, -1)
        sums = steps.sum(dim=4, dtype=torch.float32).cpu()
        found.append((sums * scale[:, None, None]).mean(dim=1).double().div_(pixels).numpy())
    return found


def _sides(images: torch.Tensor, blocks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of pooled pixels above and below the borders, [B, C, b - 1, W / pool]; those of bytes are exact in int16."""
    height, width = images.shape[2:]
    size = height // blocks
    rows = range(min(_POOL, size))
    above = _sum([images[:, :, size - 1 - row : height - size : size] for row in rows])
    below = _sum([images[:, :, size + row :: size] for row in rows])
    if width // blocks % _POOL:
        return above, below
    pooled = (_sum([side[..., column::_POOL] for column in range(_POOL)]) for side in (above, below))
    return next(pooled), next(pooled)


def _sum(parts: list[torch.Tensor]) -> torch.Tensor:
    dtype = torch.int16 if parts[0].dtype in (torch.uint8, torch.int16) else torch.float32
    total = parts[0].to(dtype)
    for part in parts[1:]:
        total = total + part
    return total
