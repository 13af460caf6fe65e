"""The arms of the ablation: which store is read, how batches are mixed and how they are scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from recipes.ablation.data import IDEAL

GRID: Final = (8, 8)  # tokens of a mask, of 8 px each
MIN_TOKENS: Final = 5  # of a block: 14 of 14 x 14 tokens, as in the paper, are 5 of 8 x 8
BASELINE: Final = "block-area"  # what all others are compared with


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


@dataclass(frozen=True)
class Scoring:
    """Where the targets of a mask come from."""

    words: str
    store: str
    settings: Mapping[str, Any]


AREA: Final = Scoring("by area", IDEAL, {"supervision": "area"})
PAPER: Final = Scoring("the paper's evidence", "label-lite0", {"evidence": "logit"})
BEST: Final = Scoring("the best evidence", "cam-lite0", {"evidence": "contrast"})  # LayerCAM at two scales
GUIDED: Final = Scoring("by area", "label-lite0", {"evidence": "logit", "supervision": "area"})  # maps say where to cut
TRUE: Final = Scoring("the ideal mask", IDEAL, {"evidence": "logit"})
FOUR: Final = {"area": AREA, "paper": PAPER, "best": BEST, "ideal": TRUE}

ALONE: Final = {"mixup_alpha": 0.0}  # without Mixup
BLOCK: Final = {"kind": "block", "min_tokens": MIN_TOKENS, "per": "sample"}
SWITCHED: Final = {"mixup_alpha": 0.8, "switch_prob": 0.5}


def _arm(words: str, scoring: Scoring, mixing: Mapping[str, Any], **more: Any) -> Arm:
    return Arm(f"{words}, {scoring.words}", scoring.store, {**mixing, **scoring.settings}, **more)


def _teacher(name: str) -> Scoring:
    return Scoring(f"the paper's evidence of {name}", f"label-{name}", PAPER.settings)


ARMS: Final[Mapping[str, Arm]] = {
    "none": Arm("no mixing", mixing={"prob": 0.0}),
    "mixup": Arm("Mixup", mixing={"mixup_alpha": 0.8, "switch_prob": 0.0}),
    "cutmix-area": _arm("CutMix", AREA, {"kind": "cutmix", **ALONE}),
    "cutmix-paper": _arm("CutMix", PAPER, {"kind": "cutmix", **ALONE}),
    "region-area": _arm("region", AREA, {**BLOCK, "kind": "region", **ALONE}),
    "random-area": _arm("random", AREA, {"kind": "random", "per": "sample", **ALONE}),
    **{f"block-{name}": _arm("block", scoring, {**BLOCK, **ALONE}) for name, scoring in FOUR.items()},
    **{f"block-mixup-{name}": _arm("block or Mixup", scoring, {**BLOCK, **SWITCHED}) for name, scoring in FOUR.items()},
    **{
        f"block-half-{name}": _arm("block in half of the batches", scoring, {**BLOCK, **ALONE, "prob": 0.5})
        for name, scoring in FOUR.items()
    },
    **{f"block-{name}": _arm("block", _teacher(name), {**BLOCK, **ALONE}) for name in ("lite1", "lite2")},
    "block-saliency": _arm("block", Scoring("spectral saliency", "saliency", {}), {**BLOCK, **ALONE}),
    "block-area-bce": _arm("block, BCE", AREA, {**BLOCK, **ALONE}, loss="bce"),
    "block-paper-bce": _arm("block, BCE", PAPER, {**BLOCK, **ALONE}, loss="bce"),
    "relabel": Arm("block, ReLabel", "topk-lite0", {**BLOCK, **ALONE, "supervision": "relabel"}),
    "tokenlabeling": Arm(
        "block, TokenLabeling", "topk-lite0", {**BLOCK, **ALONE, "supervision": "tokenlabeling"}, by_token=True
    ),
    "attentive": _arm("attentive", GUIDED, {"kind": "attentive", "per": "sample", **ALONE}),
    "saliencymix": _arm("SaliencyMix", GUIDED, {"kind": "saliencymix", "per": "sample", **ALONE}),
    "puzzle": _arm("Puzzle Mix", GUIDED, {"kind": "puzzle", **ALONE}),
    "comix": _arm("Co-Mixup", GUIDED, {"kind": "comix", **ALONE}),
}
MAIN: Final = ("none", "block-area", "block-paper", "block-best", "block-ideal")
