"""From aligned evidence and masks to targets (TokenMix, Eq. 2)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from tokenmix_loader.compiled.door import as_array, compiled_for
from tokenmix_loader.scoring.masks import distinct
from tokenmix_loader.shapes import require_choice, require_shape

Maps = torch.Tensor | npt.NDArray[np.float16] | npt.NDArray[np.float32]
Scores = tuple[torch.Tensor, torch.Tensor]

# A crop that holds less than this share of a map's evidence holds background, not the object. Low: a crop with
# a sliver of the object is still scored better by its map than by area.
MIN_EVIDENCE = 0.003
SUPERVISIONS = ("tokenmix", "area")


def _positive(maps: torch.Tensor) -> torch.Tensor:
    return maps.clamp(min=0)


def _contrast(maps: torch.Tensor) -> torch.Tensor:
    """What stands out of the background: level and extent of both are the map's own, by Otsu's threshold.

    A fixed quantile as the background's level, such as the median, loses every object larger than the rest.
    """
    # NumPy sorts short rows much faster than torch does on a CPU.
    ordered = torch.from_numpy(np.sort(maps.flatten(1).cpu().numpy())).to(maps.device)
    cells = ordered.shape[1]
    if cells < 2:
        return torch.zeros_like(maps)
    low = torch.arange(1, cells, device=maps.device)
    low_mean = ordered.cumsum(dim=1, dtype=torch.float64)[:, :-1] / low
    # Variance between the `low` lowest cells and the others, by the distance of their mean from that of all.
    between = (ordered.mean(dim=1, keepdim=True) - low_mean).square() * low / (cells - low)
    best = between.argmax(dim=1, keepdim=True)
    threshold, background = (values.gather(1, best).float()[:, :, None] for values in (ordered, low_mean))
    return torch.where(maps > threshold, maps - background, 0)


EVIDENCE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"logit": _positive, "contrast": _contrast}


def evidence(maps: Maps, kind: str = "logit") -> torch.Tensor:
    """What a teacher's map says for the presence of its label, per cell: float32 [B, h, w] >= 0.

    `maps` [B, h, w], float16 or float32, numpy or torch. `logit` drops the negative part, as the paper does.
    `contrast` parts the cells in two by Otsu's threshold (the largest variance between the parts); the upper
    ones count by their distance from the lower ones' mean, the lower ones not at all. So it is the same for
    every a * map + b, up to the factor a > 0, and zero for a map without contrast. Raises ValueError for an
    unknown kind and for maps that are not finite.
    """
    require_choice("evidence: kind", kind, tuple(EVIDENCE))
    tensor = torch.as_tensor(maps).float()
    require_shape("evidence: maps", tensor, (None, None, None), "pass one map per sample, [B, h, w]")
    if not math.isfinite(tensor.sum()):  # one pass, where looking at each takes two
        raise ValueError("evidence: maps: expected finite values, found inf or nan; verify the store")
    return EVIDENCE[kind](tensor)


def normalise(maps: torch.Tensor) -> torch.Tensor:
    """Each map of [B, h, w] >= 0 divided by its sum; a map without any mass stays zero."""
    total = maps.sum(dim=(1, 2), keepdim=True)
    return torch.where(total > 0, maps / total, 0)


def mix_scores(
    tokens: torch.Tensor,
    masks: torch.Tensor,
    partner: torch.Tensor,
    *,
    min_evidence: float = MIN_EVIDENCE,
    supervision: str = "tokenmix",
) -> Scores:
    """How much of image i and of its partner stays visible: two float32 [B] in [0, 1].

    `tokens` [B, gh, gw] >= 0 come from `align` on maps of mass 1; `masks` bool [B, gh, gw], True = the token
    is kept from image i; `partner` int [B]. `tokenmix` is Eq. 2: the share of the crop's evidence in the
    visible tokens; a crop that holds less than `min_evidence` of its map's mass is scored by area. `area` is
    CutMix's: the share of tokens. Raises ValueError for shapes that do not match or an unknown supervision.
    """
    require_choice("mix_scores: supervision", supervision, SUPERVISIONS)
    _check_mix(tokens, masks, partner)
    kept = masks.float()
    area = kept.mean(dim=(1, 2))
    if supervision == "area":
        return area, 1 - area
    mass = tokens.sum(dim=(1, 2))
    seen = mass >= _least(min_evidence)
    share_a = _visible_share(tokens, kept, mass)
    share_b = _visible_share(tokens[partner], 1 - kept, mass[partner])
    return torch.where(seen, share_a, area), torch.where(seen[partner], share_b, 1 - area)


def _check_mix(tokens: torch.Tensor, masks: torch.Tensor, partner: torch.Tensor) -> None:
    require_shape("mix_scores: tokens", tokens, (None, None, None), "pass align's result, [B, gh, gw]")
    require_shape("mix_scores: masks", masks, tokens.shape, "sample masks on the grid that align used")
    require_shape("mix_scores: partner", partner, (len(tokens),), "pass one partner index per sample")
    if partner.is_floating_point() or partner.dtype == torch.bool:
        raise ValueError(f"mix_scores: partner: expected whole numbers, found {partner.dtype}; pass indices")
    if masks.dtype != torch.bool and not masks.is_floating_point():
        raise ValueError(f"mix_scores: masks: expected bool, found {masks.dtype}; compare with 0")


def _least(min_evidence: float) -> float:
    """What counts as evidence at all; more than nothing."""
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
    require_shape("mix_targets: labels", labels, (len(tokens),), "pass one label per sample")
    compiled = compiled_for(tokens, masks, labels, partner) if supervision == "tokenmix" else None
    if compiled is not None:
        _check_mix(tokens, masks, partner)
        _check_smoothing(smoothing)
        of_labels, of_partner = (as_array(part, np.int64) for part in (labels, partner))
        # Otherwise the checks on the way through tensors say what is wrong.
        if compiled.are_within(of_labels, num_classes) and compiled.are_within(of_partner, len(tokens)):
            of_tokens, of_masks = (as_array(part, np.float32) for part in (tokens, distinct(masks)))
            settings = int(num_classes), float(smoothing), float(_least(min_evidence))
            return torch.from_numpy(compiled.mix_arrays(of_tokens, of_masks, of_labels, of_partner, *settings))
    scores = mix_scores(tokens, masks, partner, min_evidence=min_evidence, supervision=supervision)
    return dense_targets(scores, (labels, labels[partner]), num_classes, smoothing=smoothing)


def dense_targets(scores: Scores, labels: Scores, num_classes: int, *, smoothing: float = 0.1) -> torch.Tensor:
    """Scores [B] of two labels [B] each, as float32 [B, K].

    Equal labels add, at most to 1. Smoothing gives every class an equal part of the share `smoothing` of the
    row's sum and takes it from the labels, so rows keep their sum and no target is negative.
    """
    classes, sharp = torch.stack(labels, dim=1).long(), torch.stack(scores, dim=1).float()
    _check_labels(classes, num_classes)
    _check_smoothing(smoothing)
    together = sharp.sum(dim=1, keepdim=True)
    equal = classes[:, :1] == classes[:, 1:]
    sharp, total = torch.where(equal, together.clamp(max=1), sharp), torch.where(equal, together.clamp(max=1), together)
    everywhere = total * (smoothing / num_classes)
    targets = everywhere.expand(-1, num_classes).contiguous()
    return targets.scatter_(1, classes, sharp.mul(1 - smoothing).add_(everywhere))


def _check_labels(labels: torch.Tensor, num_classes: int) -> None:
    if not bool(((labels >= 0) & (labels < num_classes)).all()):
        low, high = int(labels.min()), int(labels.max())
        raise ValueError(
            f"mix_targets: labels: expected 0 to {num_classes - 1}, found {low} to {high}; "
            "check num_classes and the dataset's class map"
        )


def _check_smoothing(smoothing: float) -> None:
    if not 0 <= smoothing <= 1:
        raise ValueError(
            f"dense_targets: smoothing: expected a share from 0 to 1, found {smoothing}; change the setting"
        )
