"""The arms of the ablation: which store is read, how batches are mixed and how they are scored.

Half of the batches are mixed, unless an arm's name says otherwise: at this scale mixing all of them costs more than it
regularises, see docs/results.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from recipes.ablation.data import IDEAL
from tokenmix_loader.batch import Grid

SMALLEST_BLOCK: Final = 14 / 14**2  # share of all tokens, as in the paper
BASELINE: Final = "none"  # what all others are compared with


@dataclass(frozen=True)
class Arm:
    """`words`: for the report; `store`: of data.STORES, or IDEAL; `mixing`: settings of `TokenMix`.

    `by_token`: the student classifies every token too, so that it needs one for each of the mask's.
    """

    words: str
    store: str = IDEAL  # any will do where maps are not read
    mixing: Mapping[str, Any] = field(default_factory=dict)
    loss: str = "ce"
    by_token: bool = False

    def mixing_on(self, grid: Grid) -> dict[str, Any]:
        """Settings of `TokenMix` for masks of (gh, gw) tokens."""
        if self.mixing.get("kind") not in ("block", "region"):
            return dict(self.mixing)
        return {**self.mixing, "min_tokens": round(SMALLEST_BLOCK * grid[0] * grid[1])}


@dataclass(frozen=True)
class Scoring:
    """Where the targets of a mask come from."""

    words: str
    store: str
    settings: Mapping[str, Any]


AREA: Final = Scoring("by area", IDEAL, {"supervision": "area"})
PAPER: Final = Scoring("the paper's evidence", "label-lite0", {"evidence": "logit"})
FUSED: Final = Scoring("fused LayerCAM", "fused-lite0", {"evidence": "contrast"})  # neither spread nor contested
GUIDED: Final = Scoring("by area", "label-lite0", {"evidence": "logit", "supervision": "area"})  # maps say where to cut
CAM: Final = Scoring("kind cam", "cam-lite0", {"evidence": "contrast"})
TRUE: Final = Scoring("the ideal mask", IDEAL, {"evidence": "logit"})
SCORES: Final = {"area": AREA, "paper": PAPER, "fused": FUSED, "cam": CAM, "ideal": TRUE}

HALF: Final = {"mixup_alpha": 0.0, "prob": 0.5}  # half of the batches are mixed, none of them by Mixup
ALWAYS: Final = {"mixup_alpha": 0.0}
SWITCHED: Final = {"mixup_alpha": 0.8, "switch_prob": 0.5}  # as in the paper
BLOCK: Final = {"kind": "block", "per": "sample"}


def _arm(words: str, scoring: Scoring, mixing: Mapping[str, Any], **more: Any) -> Arm:
    return Arm(f"{words}, {scoring.words}", scoring.store, {**mixing, **scoring.settings}, **more)


def _teacher(name: str) -> Scoring:
    return Scoring(f"the paper's evidence of {name}", f"label-{name}", PAPER.settings)


ARMS: Final[Mapping[str, Arm]] = {
    "none": Arm("no mixing", mixing={"prob": 0.0}),
    **{f"block-{name}": _arm("block", scoring, {**BLOCK, **HALF}) for name, scoring in SCORES.items()},
    **{
        f"block-always-{name}": _arm("block in all batches", scoring, {**BLOCK, **ALWAYS})
        for name, scoring in SCORES.items()
    },
    **{
        f"block-mixup-{name}": _arm("block or Mixup", scoring, {**BLOCK, **SWITCHED})
        for name, scoring in SCORES.items()
    },
    "mixup": Arm("Mixup", mixing={"mixup_alpha": 0.8, "switch_prob": 0.0, "prob": 0.5}),
    "cutmix-area": _arm("CutMix", AREA, {"kind": "cutmix", **HALF}),
    "cutmix-paper": _arm("CutMix", PAPER, {"kind": "cutmix", **HALF}),
    "region-area": _arm("region", AREA, {**BLOCK, "kind": "region", **HALF}),
    "random-area": _arm("random", AREA, {"kind": "random", "per": "sample", **HALF}),
    **{f"block-{name}": _arm("block", _teacher(name), {**BLOCK, **HALF}) for name in ("lite1", "lite2")},
    "block-saliency": _arm("block", Scoring("spectral saliency", "saliency", {}), {**BLOCK, **HALF}),
    "none-bce": Arm("no mixing, BCE", mixing={"prob": 0.0}, loss="bce"),
    "block-area-bce": _arm("block, BCE", AREA, {**BLOCK, **HALF}, loss="bce"),
    "block-paper-bce": _arm("block, BCE", PAPER, {**BLOCK, **HALF}, loss="bce"),
    "relabel": Arm("block, ReLabel", "topk-lite0", {**BLOCK, **HALF, "supervision": "relabel"}),
    "tokenlabeling": Arm(
        "block, TokenLabeling", "topk-lite0", {**BLOCK, **HALF, "supervision": "tokenlabeling"}, by_token=True
    ),
    "attentive": _arm("Attentive CutMix", GUIDED, {"kind": "attentive", "per": "sample", **HALF}),
    "saliencymix": _arm("SaliencyMix", GUIDED, {"kind": "saliencymix", "per": "sample", **HALF}),
    "puzzle": _arm("Puzzle Mix", GUIDED, {"kind": "puzzle", **HALF}),
    "comix": _arm("Co-Mixup", GUIDED, {"kind": "comix", **HALF}),
}
MAIN: Final = (BASELINE, *(f"block-{name}" for name in SCORES if name != "fused"))
# Which scores are better, with all else equal: (an arm, the arm that it is compared with).
QUESTIONS: Final[Mapping[str, tuple[str, str]]] = {
    "the ideal mask against area": ("ideal", "area"),
    "the paper's evidence against area": ("paper", "area"),
    "fused LayerCAM against area": ("fused", "area"),
    "fused LayerCAM against the paper's evidence": ("fused", "paper"),
    "fused LayerCAM against the ideal mask": ("fused", "ideal"),
    "kind cam against area": ("cam", "area"),
    "kind cam against the paper's evidence": ("cam", "paper"),
    "kind cam against fused LayerCAM": ("cam", "fused"),
    "kind cam against the ideal mask": ("cam", "ideal"),
}
MASKS: Final = ("block", "block-always", "block-mixup")  # each with all SCORES
