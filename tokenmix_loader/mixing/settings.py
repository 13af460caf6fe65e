"""The settings that `TokenMix` and `TokenMixCollate` share."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from tokenmix_loader.batch import Grid
from tokenmix_loader.scoring.evidence import AUTO, EVIDENCE
from tokenmix_loader.scoring.guided_masks import GUIDES
from tokenmix_loader.scoring.masks import KINDS, MaskSettings, check_mask_settings
from tokenmix_loader.scoring.targets import MIN_EVIDENCE, SUPERVISIONS
from tokenmix_loader.shapes import require_choice

SOFT_SUPERVISIONS = ("relabel", "tokenlabeling")


@dataclass(kw_only=True, eq=False)
class MixSettings(MaskSettings):
    """How a batch is mixed, with which masks, and how its labels are scored.

    From `mixup_alpha` to `cutmix_minmax` they are named as in timm's Mixup, so that its arguments can be passed on. A
    batch is mixed with probability `prob`; of those, the share `switch_prob` by TokenMix (in timm: by CutMix), the
    rest by Mixup. `mixup_alpha` = 0 leaves Mixup out. Of `mode` and `cutmix_minmax` only timm's defaults are known.

    `kind`, `kept`, `beta`, `min_tokens`, `aspect`, `per` and `variant` are those of `sample_masks`; one mask per
    batch, as in the paper's code and timm's CutMix, costs least, one per sample B times as much. More kinds:
    `attentive` and `peak` of `guided_masks`; `cutmix`, timm's rectangle, of Beta(`cutmix_alpha`, `cutmix_alpha`) in
    area, which is scored by the maps all the same (TokenMix, Table 7). They take neither `beta`, `min_tokens`,
    `aspect` nor `variant`.

    `evidence`: the kind of `evidence`: `logit` is the paper's, `contrast` suits kind cam; `auto` takes what suits the
    store's kind. `min_evidence`: as in `mix_targets`. `supervision`: `tokenmix` or `area`, as in
    `mix_targets`; or, with a store of kind topk (TokenMix, Table 2), `relabel`: the teacher's probabilities for both
    crops, mixed by area; or `tokenlabeling`: labels mixed by area together with the teacher's probabilities for every
    token, as `TokenTargets`. In the last two, an image without a map has its label only.
    """

    mixup_alpha: float = 0.8
    cutmix_alpha: float = 1.0
    prob: float = 1.0
    switch_prob: float = 0.5
    label_smoothing: float = 0.1
    mode: str = "batch"
    cutmix_minmax: None = None
    per: str = "batch"
    evidence: str = "auto"
    supervision: str = "tokenmix"
    min_evidence: float = MIN_EVIDENCE


def check_settings(settings: MixSettings, num_classes: int, grid: Grid) -> None:
    """Raise ValueError for a setting out of range, or one that the kind of mask does not take."""
    require_choice("TokenMix: kind", settings.kind, (*KINDS, *GUIDES, "cutmix"))
    require_choice("TokenMix: evidence", settings.evidence, (AUTO, *EVIDENCE))
    require_choice("TokenMix: supervision", settings.supervision, (*SUPERVISIONS, *SOFT_SUPERVISIONS))
    if settings.mode != "batch" or settings.cutmix_minmax is not None:
        raise ValueError(
            f"TokenMix: expected mode 'batch' and no cutmix_minmax, found {settings.mode!r} and "
            f"{settings.cutmix_minmax}; leave --mixup-mode and --cutmix-minmax out"
        )
    for name in ("switch_prob", "prob", "label_smoothing", "kept", "min_evidence"):
        if not 0 <= (found := getattr(settings, name)) <= 1:
            raise ValueError(f"TokenMix: {name}: expected a share from 0 to 1, found {found}; change the setting")
    numbers = {"mixup_alpha": settings.mixup_alpha, "cutmix_alpha": settings.cutmix_alpha, "num_classes": num_classes}
    for (name, found), least in zip(numbers.items(), (0, np.finfo(float).tiny, 1), strict=True):
        if not least <= found < np.inf:
            raise ValueError(f"TokenMix: {name}: expected a number >= {least:g}, found {found}; change the setting")
    if settings.kind not in KINDS:
        _refuse_mask_settings(settings)
    check_mask_settings(1, grid, settings)  # of the others `kept` and `per`


def _refuse_mask_settings(settings: MixSettings) -> None:
    for field in fields(MixSettings):
        if field.name in ("beta", "min_tokens", "aspect", "variant") and getattr(settings, field.name) != field.default:
            raise ValueError(
                f"TokenMix: {field.name}: expected kind {', '.join(KINDS)} with it, found {settings.kind!r}, "
                "which has no such setting; leave it out"
            )
