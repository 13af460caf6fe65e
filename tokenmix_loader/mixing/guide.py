"""What matters in each token, for masks that follow it: the stored maps' evidence, or a saliency of the user's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import adaptive_avg_pool2d

from tokenmix_loader.batch import Grid
from tokenmix_loader.shapes import require_shape

Saliency = Callable[[torch.Tensor], torch.Tensor]


def evidence_guide(tokens: torch.Tensor, min_evidence: float) -> torch.Tensor:
    """The evidence [B, gh, gw] itself; nothing at all of a crop that holds less than `min_evidence` of its map's mass.

    Such a crop is scored by area, too: what little its map says is no object.
    """
    return tokens * (tokens.sum(dim=(1, 2), keepdim=True) >= min_evidence)


def saliency_guide(saliency: Saliency, images: torch.Tensor, grid: Grid) -> torch.Tensor:
    """`saliency(images)` [B, h, w] as means of tokens [B, gh, gw], float32 on the CPU.

    Raises ValueError for another shape and for values that are negative or not finite.
    """
    found = saliency(images)
    require_shape("TokenMix: saliency", found, (len(images), None, None), "return one map per image, [B, h, w]")
    pooled = adaptive_avg_pool2d(found.detach().float(), grid).cpu()
    if not bool((found >= 0).all() and pooled.isfinite().all()):
        raise ValueError(
            "TokenMix: saliency: expected finite values of at least 0, found others; return, say, the absolute gradient"
        )
    return pooled
