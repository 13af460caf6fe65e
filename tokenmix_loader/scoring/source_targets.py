"""Targets of images whose tokens may come from many images, and from other places in them (TokenMix, Eq. 2)."""

from __future__ import annotations

import torch

from tokenmix_loader.batch import TokenSources
from tokenmix_loader.scoring.targets import MIN_EVIDENCE, SUPERVISIONS, check_labels, least_mass
from tokenmix_loader.shapes import require_choice, require_shape, require_share


def source_targets(
    tokens: torch.Tensor,
    sources: TokenSources,
    labels: torch.Tensor,
    num_classes: int,
    *,
    smoothing: float = 0.1,
    min_evidence: float = MIN_EVIDENCE,
    supervision: str = "tokenmix",
) -> torch.Tensor:
    """Dense targets of mixed images, float32 [B, K]; for two images and tokens in place, those of `mix_targets`.

    `tokens` [B, gh, gw] and `labels` int [B] are those of the unmixed images. `tokenmix`: each token counts by its
    share of its own image's evidence, wherever it has moved to; an image that holds less than `min_evidence` of its
    map's mass counts by area. `area`: each token counts alike. Equal labels add, at most to 1; for smoothing see
    `dense_targets`. Raises ValueError for shapes that do not match and labels outside of [0, K).
    """
    require_choice("source_targets: supervision", supervision, SUPERVISIONS)
    require_share("source_targets: min_evidence", min_evidence)
    require_share("source_targets: smoothing", smoothing)
    require_shape("source_targets: tokens", tokens, (None, None, None), "pass align's result, [B, gh, gw]")
    require_shape("source_targets: labels", labels, (len(tokens),), "pass one label per sample")
    require_shape("source_targets: sources", sources.image, (len(tokens), None, *tokens.shape[1:]), "use one grid")
    check_labels(labels, num_classes)
    classes = labels.long()
    worth = token_worth(tokens, min_evidence, supervision)
    shown = worth[sources.image, sources.token] * sources.weight
    sharp = tokens.new_zeros(len(tokens), num_classes, dtype=torch.float32)
    sharp.scatter_add_(1, classes[sources.image].flatten(1), shown.flatten(1)).clamp_(max=1)
    return sharp * (1 - smoothing) + sharp.sum(dim=1, keepdim=True) * (smoothing / num_classes)


def token_worth(tokens: torch.Tensor, min_evidence: float, supervision: str) -> torch.Tensor:
    """What each token of an unmixed image counts for its label, float32 [B, gh * gw]: shares that sum to 1."""
    flat = tokens.flatten(1).float()
    by_area = torch.full_like(flat, 1 / flat.shape[1])
    if supervision == "area":
        return by_area
    mass = flat.sum(dim=1, keepdim=True)
    seen = mass >= least_mass(min_evidence)
    return torch.where(seen, flat / mass, by_area)
