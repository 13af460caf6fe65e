"""From aligned evidence and masks to targets (TokenMix, Eq. 2)."""

from __future__ import annotations

import numpy as np
import torch

from tokenmix_loader.compiled.door import as_array, compiled_for
from tokenmix_loader.scoring.masks import without_copies
from tokenmix_loader.shapes import require_choice, require_count, require_shape, require_share

Pair = tuple[torch.Tensor, torch.Tensor]  # [B] each: of image i, and of its partner

# A crop that holds less than this share of a map's evidence holds background, not the object. Low: a crop with
# a sliver of the object is still scored better by its map than by area.
MIN_EVIDENCE = 0.003
SUPERVISIONS = ("tokenmix", "area")


def mix_scores(
    tokens: torch.Tensor,
    masks: torch.Tensor,
    partner: torch.Tensor,
    *,
    min_evidence: float = MIN_EVIDENCE,
    supervision: str = "tokenmix",
) -> Pair:
    """How much of image i and of its partner stays visible: two float32 [B] in [0, 1].

    `tokens` [B, gh, gw] >= 0 come from `align` on maps of mass 1; `masks` bool [B, gh, gw], True = the token
    is kept from image i; `partner` int [B]. `tokenmix` is Eq. 2: the share of the crop's evidence in the
    visible tokens; a crop that holds less than `min_evidence` of its map's mass is scored by area. `area` is
    CutMix's: the share of tokens. Raises ValueError for shapes that do not match or an unknown supervision.
    """
    require_choice("mix_scores: supervision", supervision, SUPERVISIONS)
    _check_mix(tokens, masks, partner, min_evidence)
    _check_partners(partner)
    kept = masks.float()
    area = kept.mean(dim=(1, 2))
    if supervision == "area":
        return area, 1 - area
    mass = tokens.sum(dim=(1, 2))
    seen = mass >= least_mass(min_evidence)
    share_a = _visible_share(tokens, kept, mass)
    share_b = _visible_share(tokens[partner], 1 - kept, mass[partner])
    return torch.where(seen, share_a, area), torch.where(seen[partner], share_b, 1 - area)


def _check_mix(tokens: torch.Tensor, masks: torch.Tensor, partner: torch.Tensor, min_evidence: float) -> None:
    require_share("mix_scores: min_evidence", min_evidence)
    require_shape("mix_scores: tokens", tokens, (None, None, None), "pass align's result, [B, gh, gw]")
    require_shape("mix_scores: masks", masks, tokens.shape, "sample masks on the grid that align used")
    require_shape("mix_scores: partner", partner, (len(tokens),), "pass one partner index per sample")
    if partner.is_floating_point() or partner.dtype == torch.bool:
        raise ValueError(f"mix_scores: partner: expected whole numbers, found {partner.dtype}; pass indices")
    is_share = masks.is_floating_point() and bool(((masks >= 0) & (masks <= 1)).all())
    if masks.dtype != torch.bool and not is_share:
        raise ValueError(f"mix_scores: masks: expected bool, or shares in 0 to 1, found {masks.dtype}; compare with 0")


def _check_partners(partner: torch.Tensor) -> None:
    if not bool(((partner >= 0) & (partner < len(partner))).all()):
        low, high = int(partner.min()), int(partner.max())
        raise IndexError(
            f"mix_scores: partner: expected 0 to {len(partner) - 1}, found {low} to {high}; pass indices of the batch"
        )


def least_mass(min_evidence: float) -> float:
    """The mass from which on a crop is scored by its map: more than none, even where `min_evidence` is 0."""
    return max(min_evidence, torch.finfo(torch.float32).tiny)


def _visible_share(tokens: torch.Tensor, visible: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
    return ((tokens * visible).sum(dim=(1, 2)) / mass).clamp(0, 1)


def mix_targets(
    tokens: torch.Tensor,
    masks: torch.Tensor,
    labels: torch.Tensor,
    partner: torch.Tensor,
    num_classes: int,
    *,
    smoothing: float = 0.1,
    min_evidence: float = MIN_EVIDENCE,
    supervision: str = "tokenmix",
) -> torch.Tensor:
    """Dense targets of mixed images, float32 [B, K]: the scores of `mix_scores` on the two labels, smoothed.

    `labels` int [B] are those of the unmixed images. The two scores need not add up to 1: an image may show
    both objects or none. Raises ValueError for shapes that do not match and labels outside of [0, K).
    """
    require_count("mix_targets: num_classes", num_classes)
    require_shape("mix_targets: labels", labels, (len(tokens),), "pass one label per sample")
    _require_whole(labels)
    loops = compiled_for(tokens, masks, labels, partner) if supervision == "tokenmix" else None
    if loops:
        _check_mix(tokens, masks, partner, min_evidence)
        require_share("mix_targets: smoothing", smoothing)
        of_labels, of_partner = (as_array(part, np.int64) for part in (labels, partner))
        # Otherwise the checks of the tensor code below say what is wrong.
        if loops.are_within(of_labels, num_classes) and loops.are_within(of_partner, len(tokens)):
            of_tokens, of_masks = (as_array(part, np.float32) for part in (tokens, without_copies(masks)))
            settings = int(num_classes), float(smoothing), float(least_mass(min_evidence))
            return torch.from_numpy(loops.mix_arrays(of_tokens, of_masks, of_labels, of_partner, *settings))
    scores = mix_scores(tokens, masks, partner, min_evidence=min_evidence, supervision=supervision)
    return dense_targets(scores, (labels, labels[partner]), num_classes, smoothing=smoothing)


def dense_targets(scores: Pair, labels: Pair, num_classes: int, *, smoothing: float = 0.1) -> torch.Tensor:
    """Scores [B] of two labels [B] each, as float32 [B, K].

    Equal labels add, at most to 1. Smoothing gives every class an equal part of the share `smoothing` of the
    row's sum and takes it from the labels, so rows keep their sum and no target is negative.
    """
    classes, sharp = torch.stack(labels, dim=1).long(), torch.stack(scores, dim=1).float()
    check_labels(classes, num_classes)
    require_share("dense_targets: smoothing", smoothing)
    together = sharp.sum(dim=1, keepdim=True)
    equal = classes[:, :1] == classes[:, 1:]
    sharp, total = torch.where(equal, together.clamp(max=1), sharp), torch.where(equal, together.clamp(max=1), together)
    everywhere = total * (smoothing / num_classes)
    targets = everywhere.expand(-1, num_classes).contiguous()
    return targets.scatter_(1, classes, sharp.mul(1 - smoothing).add_(everywhere))


def check_labels(labels: torch.Tensor, num_classes: int) -> None:
    """Raise ValueError for labels outside of [0, K), and for those that are no whole numbers."""
    _require_whole(labels)
    if not bool(((labels >= 0) & (labels < num_classes)).all()):
        low, high = int(labels.min()), int(labels.max())
        raise ValueError(
            f"mix_targets: labels: expected 0 to {num_classes - 1}, found {low} to {high}; "
            "check num_classes and the dataset's class map"
        )


def _require_whole(labels: torch.Tensor) -> None:
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"mix_targets: labels: expected whole numbers, found {labels.dtype}; pass class indices")
