"""The settings that `TokenMix` and `TokenMixCollate` share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from inspect import signature
from typing import Any, TypeVar

from tokenmix_loader.batch import Grid
from tokenmix_loader.mixing.guide import Saliency
from tokenmix_loader.mixing.optimal.blocks import block_counts
from tokenmix_loader.mixing.optimal.comix import CoMixSettings
from tokenmix_loader.mixing.optimal.puzzle import PuzzleSettings
from tokenmix_loader.scoring.evidence import AUTO, EVIDENCE
from tokenmix_loader.scoring.guided_masks import GUIDES
from tokenmix_loader.scoring.masks import KINDS, MaskSettings, check_mask_settings
from tokenmix_loader.scoring.targets import MIN_EVIDENCE, SUPERVISIONS
from tokenmix_loader.shapes import did_you_mean, require_choice, require_count, require_number, require_share

SOFT_SUPERVISIONS = ("relabel", "tokenlabeling")
OPTIMAL = ("puzzle", "comix")
GUIDED = (*GUIDES, *OPTIMAL)  # by the maps, or by a saliency
_PUZZLE, _COMIX = PuzzleSettings(), CoMixSettings()
_T = TypeVar("_T")


@dataclass(kw_only=True, eq=False)
class MixSettings(MaskSettings):
    """How a batch is mixed, with which masks, and how its labels are scored.

    From `mixup_alpha` to `cutmix_minmax` they are named as in timm's Mixup, so that its arguments can be passed on. A
    batch is mixed with probability `prob`; of those, the share `switch_prob` by TokenMix (in timm: by CutMix), the
    rest by Mixup. `mixup_alpha` = 0 leaves Mixup out; `cutmix_alpha` is read with kind `cutmix` only, and 0 leaves no
    TokenMix out. Of `mode` and `cutmix_minmax` only timm's defaults are known.

    `kind`, `kept`, `beta`, `min_tokens`, `aspect`, `per` and `variant` are those of `sample_masks`; one mask per
    batch, as in the paper's code and timm's CutMix, costs least, one per sample B times as much. More kinds:
    `attentive` and `saliencymix` of `guided_masks`; `cutmix`, timm's rectangle, of Beta(`cutmix_alpha`, `cutmix_alpha`)
    in area, which is scored by the maps all the same (TokenMix, Table 7). They take neither `beta`, `min_tokens`,
    `aspect` nor `variant`. `puzzle` and `comix` (TokenMix, Table 3) are optimal masks, with the settings `puzzle` and
    `comix`. These two and `cutmix` do not take `kept` either, and `cutmix` has one rectangle per batch.

    `saliency`: what kinds that follow the maps follow instead: a function of the images as they are given,
    [B, C, H, W], that returns maps [B, h, w] >= 0, such as the gradient's magnitude. Labels are scored by the stored
    maps all the same.

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
    puzzle: PuzzleSettings = _PUZZLE
    comix: CoMixSettings = _COMIX
    saliency: Saliency | None = None


def refusing_unknown(cls: type[_T]) -> type[_T]:
    """The class; a keyword that it does not know is answered by a TypeError that names the nearest one."""
    make: Callable[..., None] = cls.__init__
    known = [name for name in signature(cls).parameters if not name.startswith("_")]

    @wraps(make)
    def checked(self: Any, *args: Any, **settings: Any) -> None:
        for name in settings:
            if name not in known:
                raise TypeError(
                    f"{cls.__name__}: {name}: expected a setting, found none of this name; "
                    f"{did_you_mean(name, known) or 'leave it out'} (known: {', '.join(known)})"
                )
        make(self, *args, **settings)

    cls.__init__ = checked  # type: ignore[method-assign]
    return cls


def check_settings(settings: MixSettings, num_classes: int, grid: Grid) -> None:
    """Raise ValueError for a setting out of range, or one that the kind of mask does not take, TypeError for a type."""
    require_choice("TokenMix: kind", settings.kind, (*KINDS, *GUIDES, "cutmix", *OPTIMAL))
    require_choice("TokenMix: evidence", settings.evidence, (AUTO, *EVIDENCE))
    require_choice("TokenMix: supervision", settings.supervision, (*SUPERVISIONS, *SOFT_SUPERVISIONS))
    if settings.mode != "batch" or settings.cutmix_minmax is not None:
        raise ValueError(
            f"TokenMix: expected mode 'batch' and no cutmix_minmax, found {settings.mode!r} and "
            f"{settings.cutmix_minmax}; leave --mixup-mode and --cutmix-minmax out"
        )
    for name in ("switch_prob", "prob", "label_smoothing", "kept", "min_evidence"):
        require_share(f"TokenMix: {name}", getattr(settings, name))
    for name in ("mixup_alpha", "cutmix_alpha"):
        require_number(f"TokenMix: {name}", getattr(settings, name), "a number of at least 0", 0)
    if settings.kind == "cutmix" and settings.cutmix_alpha == 0:
        raise ValueError(
            "TokenMix: cutmix_alpha: expected a number above 0 with kind 'cutmix', found 0; give timm's train.py "
            "--cutmix 1.0, or choose another kind, which does not read it"
        )
    require_count("TokenMix: num_classes", num_classes)
    _refuse_other_kinds_settings(settings)
    for name, chosen, known in (("puzzle", settings.puzzle, PuzzleSettings), ("comix", settings.comix, CoMixSettings)):
        if not isinstance(chosen, known):
            raise TypeError(f"TokenMix: {name}: expected a {known.__name__}, found {chosen!r}; import and pass one")
        if settings.kind == name:
            block_counts(f"TokenMix: {name}: blocks", chosen.blocks, grid)
    if not (settings.saliency is None or callable(settings.saliency)):
        raise TypeError(f"TokenMix: saliency: expected a function, found {settings.saliency!r}; pass one of the images")
    check_mask_settings(1, grid, settings)  # of the others `kept` and `per`


def _refuse_other_kinds_settings(settings: MixSettings) -> None:
    taken_by = {
        **dict.fromkeys(("beta", "min_tokens", "aspect", "variant"), KINDS),
        "per": (*KINDS, *GUIDED),
        "kept": (*KINDS, *GUIDES),
        "saliency": GUIDED,
        "puzzle": ("puzzle",),
        "comix": ("comix",),
    }
    for field in fields(MixSettings):
        kinds = taken_by.get(field.name)
        if kinds and settings.kind not in kinds and getattr(settings, field.name) != field.default:
            raise ValueError(
                f"TokenMix: {field.name}: expected kind {', '.join(kinds)} with it, found {settings.kind!r}, "
                "which has no such setting; leave it out"
            )
    if settings.kind in OPTIMAL:
        require_choice(f"TokenMix: supervision of kind {settings.kind}", settings.supervision, SUPERVISIONS)
