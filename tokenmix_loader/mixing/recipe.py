"""What is done to a batch: mixed how, with which masks, scored how (TokenMix, Sec. 3; Mixup: arXiv 1710.09412)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import numpy as np
import torch

from tokenmix_loader.batch import Box, Draw, Grid, MapTarget, TokenTargets
from tokenmix_loader.compiled.door import compiled_for
from tokenmix_loader.scoring.guided_masks import GUIDES, guided_masks
from tokenmix_loader.scoring.masks import KINDS, sample_masks
from tokenmix_loader.scoring.soft_labels import read_soft_labels
from tokenmix_loader.scoring.targets import EVIDENCE, MIN_EVIDENCE, SUPERVISIONS, dense_targets, mix_targets
from tokenmix_loader.scoring.tokens import read_tokens
from tokenmix_loader.shapes import require_choice, token_size
from tokenmix_loader.store_access import MapStore, StoreMismatch

Targets = torch.Tensor | TokenTargets
SOFT = ("relabel", "tokenlabeling")


@dataclass(frozen=True)
class Recipe:
    """The settings of `TokenMix` and `TokenMixCollate`.

    `grid` (gh, gw) is the student's. A batch is mixed with probability `prob`; of those, the share
    `switch_prob` by TokenMix, the rest by Mixup: as in timm, where it is the share of CutMix. `mixup_alpha` = 0
    leaves Mixup out. `kind`, `kept`, `per` and `mask_options` are those of `sample_masks`: one mask per batch, as
    in the paper's code and timm's CutMix, costs least, one per sample B times as much. More kinds: `attentive`
    and `peak` of `guided_masks`; `cutmix`, timm's rectangle, of Beta(`cutmix_alpha`, `cutmix_alpha`) in area, scored
    by the maps all the same (TokenMix, Table 7). `evidence` is `evidence`'s kind; `smoothing` and `min_evidence` are
    `mix_targets`'.

    `supervision`: `tokenmix` and `area` are `mix_targets`'. From a store of kind topk (TokenMix, Table 2): `relabel`,
    the teacher's probabilities of both crops, mixed by area; `tokenlabeling`, labels mixed by area, and the teacher's
    probabilities for every token, as `TokenTargets`. Both know the label only where an image has no map.

    Raises ValueError for a setting out of range.
    """

    num_classes: int
    grid: Grid
    kind: str = "block"
    kept: float = 0.5
    per: str = "batch"
    evidence: str = "logit"
    supervision: str = "tokenmix"
    mixup_alpha: float = 0.8
    cutmix_alpha: float = 1.0
    switch_prob: float = 0.5
    prob: float = 1.0
    smoothing: float = 0.1
    min_evidence: float = MIN_EVIDENCE
    mask_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_choice("TokenMix: kind", self.kind, (*KINDS, *GUIDES, "cutmix"))
        require_choice("TokenMix: evidence", self.evidence, tuple(EVIDENCE))
        require_choice("TokenMix: supervision", self.supervision, (*SUPERVISIONS, *SOFT))
        for name in ("switch_prob", "prob", "smoothing", "kept", "min_evidence"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"TokenMix: {name}: expected a share from 0 to 1, found {getattr(self, name)}; change the setting"
                )
        for name, least in (("mixup_alpha", 0), ("cutmix_alpha", np.finfo(float).tiny), ("num_classes", 1)):
            if not least <= getattr(self, name) < np.inf:
                raise ValueError(
                    f"TokenMix: {name}: expected a number >= {least:g}, found {getattr(self, name)}; change the setting"
                )
        known = signature(sample_masks).parameters.keys() - {"rng", "batch", "grid", "kind", "kept", "per"}
        unknown = sorted(self.mask_options.keys() - known)
        if unknown:
            raise TypeError(f"TokenMix: {unknown[0]}: expected a setting of Recipe or sample_masks; leave it out")
        if self.mask_options and self.kind not in KINDS:
            raise ValueError(
                f"TokenMix: {min(self.mask_options)}: expected kind {', '.join(KINDS)} with it, found {self.kind!r}, "
                "which has no such setting; leave it out"
            )
        compiled_for()  # before workers are forked
        # A wrong option fails here, not in the loop.
        self.draw(np.random.default_rng(0), 1, self.grid, torch.zeros(1, *self.grid))

    def check(self, store: MapStore) -> None:
        """Raise StoreMismatch for a store that does not have what the supervision needs."""
        if self.supervision in SOFT and store.kind != "topk":
            raise StoreMismatch(
                f"{store!r}: expected kind topk for supervision {self.supervision!r}, found {store.kind}; "
                "extract with --kind topk"
            )

    def tokens(self, store: MapStore, given: MapTarget) -> torch.Tensor:
        """`read_tokens` of a batch on the CPU; nothing is read for targets by area."""
        if self.supervision == "area" and self.kind not in GUIDES:
            return torch.zeros(len(given.row), *self.grid)
        return read_tokens(store, given, self.grid, self.evidence)

    def mix(
        self,
        rng: np.random.Generator,
        size: tuple[int, int],
        store: MapStore,
        given: MapTarget,
        *,
        enabled: bool = True,
    ) -> tuple[Draw, Targets]:
        """What to do with a batch of images of `size` (height, width) in px, and its targets, see `targets`."""
        if self.kind != "cutmix":
            token_size(size, self.grid)  # in every batch, not only in those that get a mask
        if not enabled:
            return Draw(), self.targets(Draw(), store, given)
        tokens = self.tokens(store, given) if self.kind in GUIDES else None
        draw = self.draw(rng, len(given.label), size, tokens)
        return draw, self.targets(draw, store, given, tokens)

    def draw(
        self, rng: np.random.Generator, batch: int, size: tuple[int, int], tokens: torch.Tensor | None = None
    ) -> Draw:
        """Chance for one batch of B images of `size` (height, width) in px; guides need `tokens` [B, gh, gw]."""
        if rng.random() >= self.prob:
            return Draw()
        if self.mixup_alpha > 0 and rng.random() >= self.switch_prob:
            return Draw(share=rng.beta(self.mixup_alpha, self.mixup_alpha))
        if self.kind == "cutmix":
            box = _draw_box(rng, size, rng.beta(self.cutmix_alpha, self.cutmix_alpha))
            return Draw(masks=_left_over(box, size, self.grid).expand(batch, *self.grid), box=box)
        if tokens is not None and self.kind in GUIDES:
            return Draw(masks=guided_masks(rng, tokens, self.kind, kept=self.kept))
        masks = sample_masks(rng, batch, self.grid, self.kind, kept=self.kept, per=self.per, **self.mask_options)
        return Draw(masks=masks)

    def targets(self, draw: Draw, store: MapStore, given: MapTarget, tokens: torch.Tensor | None = None) -> Targets:
        """Targets of the mixed batch on the CPU, where `given` has to be: float32 [B, K], or `TokenTargets`."""
        if self.supervision in SOFT:
            return self._soft_targets(draw, store, given)
        return self._hard_targets(draw, store, given, tokens)

    def _soft_targets(self, draw: Draw, store: MapStore, given: MapTarget) -> Targets:
        batch, pooled = len(given.label), self.supervision == "relabel"
        soft = read_soft_labels(store, given, self.grid, self.num_classes, pooled=pooled, smoothing=self.smoothing)
        share = torch.full((batch, *self.grid), draw.share) if draw.masks is None else draw.masks.float()
        area = share.mean(dim=(1, 2))
        if pooled:
            teacher = soft.dense(self.num_classes)[:, 0]
            return torch.lerp(teacher.flip(0), teacher, area[:, None])
        labels = given.label, given.label.flip(0)
        mixed = dense_targets((area, 1 - area), labels, self.num_classes, smoothing=self.smoothing)
        return TokenTargets(mixed, share.flatten(1), *soft)

    def _hard_targets(self, draw: Draw, store: MapStore, given: MapTarget, tokens: torch.Tensor | None) -> torch.Tensor:
        dense: dict[str, Any] = {"num_classes": self.num_classes, "smoothing": self.smoothing}
        if draw.masks is None:
            shares = torch.full(given.label.shape, draw.share)
            return dense_targets((shares, 1 - shares), (given.label, given.label.flip(0)), **dense)
        partner = torch.arange(len(given.label)).flip(0)
        tokens = self.tokens(store, given) if tokens is None else tokens
        scoring: dict[str, Any] = {"supervision": self.supervision, "min_evidence": self.min_evidence}
        return mix_targets(tokens, draw.masks, given.label, partner, **dense, **scoring)


def _draw_box(rng: np.random.Generator, size: tuple[int, int], kept: float) -> Box:
    """CutMix's rectangle: of the image's aspect, 1 - kept in area, its middle anywhere, cut at the borders."""
    edges: list[int] = []
    for side in size:
        length = int(side * np.sqrt(1 - kept))
        middle = int(rng.integers(side))
        edges += [max(0, middle - length // 2), min(side, middle + (length + 1) // 2)]
    top, bottom, left, right = edges
    return top, bottom, left, right


def _left_over(box: Box, size: tuple[int, int], grid: Grid) -> torch.Tensor:
    """The share of each token that lies outside of the box, float32 [gh, gw]."""
    covered = [
        (torch.linspace(0, tokens, tokens + 1) * (side / tokens)).clamp(near, far).diff() * (tokens / side)
        for near, far, side, tokens in zip(box[::2], box[1::2], size, grid, strict=True)
    ]
    return 1 - covered[0][:, None] * covered[1]
