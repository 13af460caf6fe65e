"""What is done to a batch: mixed how, with which masks, scored how (TokenMix, Sec. 3; Mixup: arXiv 1710.09412)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch

from tokenmix_loader.batch import NO_MAP, NOT_FOLLOWED, Box, Draw, Grid, MapTarget, TokenTargets
from tokenmix_loader.compiled.door import optimal_loops, warm_up
from tokenmix_loader.mixing.guide import evidence_guide, saliency_guide
from tokenmix_loader.mixing.optimal.comix import comix_sources
from tokenmix_loader.mixing.optimal.puzzle import puzzle_sources
from tokenmix_loader.mixing.settings import GUIDED, OPTIMAL, SOFT_SUPERVISIONS, MixSettings, check_settings
from tokenmix_loader.scoring.guided_masks import guided_masks
from tokenmix_loader.scoring.masks import draw_masks
from tokenmix_loader.scoring.read_tokens import read_tokens, require_own_rows
from tokenmix_loader.scoring.soft_labels import classes_of_outputs, read_soft_labels
from tokenmix_loader.scoring.source_targets import source_targets
from tokenmix_loader.scoring.targets import dense_targets, mix_targets
from tokenmix_loader.shapes import require_grid, token_size
from tokenmix_loader.store_access import MapStore, StoreMismatch

Targets = torch.Tensor | TokenTargets


@dataclass(frozen=True)
class Recipe:
    """Settings, for K classes and the student's grid (gh, gw), applied to batches; made by `make_recipe`."""

    num_classes: int
    grid: Grid
    settings: MixSettings

    def check(self, store: MapStore) -> None:
        """Raise StoreMismatch for a store that cannot give this supervision."""
        supervision = self.settings.supervision
        if supervision not in SOFT_SUPERVISIONS:
            return
        if store.kind != "topk":
            raise StoreMismatch(
                f"{store}: expected kind topk for supervision {supervision!r}, found {store.kind}; "
                "extract with --kind topk"
            )
        classes_of_outputs(store, self.num_classes)

    def tokens(self, store: MapStore, given: MapTarget) -> torch.Tensor:
        """`read_tokens` of a batch on the CPU; nothing is read for targets by area, unless masks follow the maps."""
        followed = self.settings.kind in GUIDED and self.settings.saliency is None
        if self.settings.supervision == "area" and not followed:
            return torch.zeros(len(given.row), *self.grid)
        return read_tokens(store, given, self.grid, self.settings.evidence)

    def mix(
        self,
        rng: np.random.Generator,
        images: torch.Tensor,
        store: MapStore,
        given: MapTarget,
        *,
        enabled: bool = True,
    ) -> tuple[Draw, Targets]:
        """What to do with a batch of images [B, C, H, W], and its targets, see `targets`.

        Raises StoreMismatch for rows of another store, ValueError for images whose transform was not traced.
        """
        if self.settings.kind != "cutmix":
            # In every batch, not only in those that get a mask.
            token_size("TokenMix: images", tuple(images.shape[2:]), self.grid)
        require_own_rows(store, given)  # also in those for which no map is read
        _require_followed(given)
        if not enabled:
            return Draw(), self.targets(Draw(), store, given)
        tokens = self.tokens(store, given) if self.settings.kind in GUIDED else None
        draw = self.draw(rng, images, tokens)
        return draw, self.targets(draw, store, given, tokens)

    def draw(self, rng: np.random.Generator, images: torch.Tensor, tokens: torch.Tensor | None = None) -> Draw:
        """What chance decides for a batch of images [B, C, H, W]; kinds that follow the maps need `tokens`."""
        chosen, batch, size = self.settings, len(images), (images.shape[2], images.shape[3])
        if rng.random() >= chosen.prob:
            return Draw()
        if chosen.mixup_alpha > 0 and rng.random() >= chosen.switch_prob:
            return Draw(share=rng.beta(chosen.mixup_alpha, chosen.mixup_alpha))
        if chosen.kind == "cutmix":
            box = _draw_box(rng, size, rng.beta(chosen.cutmix_alpha, chosen.cutmix_alpha))
            return Draw(masks=_left_over(box, size, self.grid).expand(batch, *self.grid), box=box)
        if tokens is not None and chosen.kind in GUIDED:
            return self._draw_guided(rng, images, tokens)
        return Draw(masks=draw_masks(rng, batch, self.grid, chosen))

    def _draw_guided(self, rng: np.random.Generator, images: torch.Tensor, tokens: torch.Tensor) -> Draw:
        chosen = self.settings
        if chosen.saliency is None:
            guide = evidence_guide(tokens, chosen.min_evidence)
        else:
            guide = saliency_guide(chosen.saliency, images, self.grid)
        if chosen.kind == "puzzle":
            return Draw(sources=puzzle_sources(rng, guide, images, chosen.puzzle, chosen.per))
        if chosen.kind == "comix":
            return Draw(sources=comix_sources(rng, guide, chosen.comix))
        return Draw(masks=guided_masks(rng, guide, chosen.kind, kept=chosen.kept))

    def targets(self, draw: Draw, store: MapStore, given: MapTarget, tokens: torch.Tensor | None = None) -> Targets:
        """Targets of the mixed batch on the CPU, where `given` has to be: float32 [B, K], or `TokenTargets`."""
        if self.settings.supervision in SOFT_SUPERVISIONS:
            return self._soft_targets(draw, store, given)
        if draw.sources is not None:
            return source_targets(
                self.tokens(store, given) if tokens is None else tokens,
                draw.sources,
                given.label,
                self.num_classes,
                smoothing=self.settings.label_smoothing,
                min_evidence=self.settings.min_evidence,
                supervision=self.settings.supervision,
            )
        if draw.masks is None:
            shares = torch.full(given.label.shape, draw.share)
            return self._targets_by_area(shares, given)
        partner = torch.arange(len(given.label)).flip(0)
        return mix_targets(
            self.tokens(store, given) if tokens is None else tokens,
            draw.masks,
            given.label,
            partner,
            self.num_classes,
            smoothing=self.settings.label_smoothing,
            min_evidence=self.settings.min_evidence,
            supervision=self.settings.supervision,
        )

    def _soft_targets(self, draw: Draw, store: MapStore, given: MapTarget) -> Targets:
        pooled, smoothing = self.settings.supervision == "relabel", self.settings.label_smoothing
        soft = read_soft_labels(store, given, self.grid, self.num_classes, pooled=pooled, smoothing=smoothing)
        shape = len(given.label), *self.grid
        share = torch.full(shape, draw.share) if draw.masks is None else draw.masks.float()
        area = share.mean(dim=(1, 2))
        if pooled:
            teacher = soft.dense(self.num_classes)[:, 0]
            return torch.lerp(teacher.flip(0), teacher, area[:, None])
        return TokenTargets(self._targets_by_area(area, given), share.flatten(1), *soft)

    def _targets_by_area(self, shares: torch.Tensor, given: MapTarget) -> torch.Tensor:
        """[B, K], of the shares [B] of the pixels that come from image a."""
        labels = given.label, given.label.flip(0)
        smoothing = self.settings.label_smoothing
        return dense_targets((shares, 1 - shares), labels, self.num_classes, smoothing=smoothing)


def make_recipe(settings: MixSettings, num_classes: int, grid: Grid, store: MapStore) -> Recipe:
    """A recipe for batches of a store; compiles, where there is numba, before workers are forked.

    Raises ValueError for a setting out of range, StoreMismatch for a supervision that the store cannot give.
    """
    grid = require_grid("TokenMix: grid", grid)
    check_settings(settings, num_classes, grid)
    recipe = Recipe(num_classes, grid, settings)
    recipe.check(store)
    warm_up()
    if settings.kind in OPTIMAL and optimal_loops() is None and settings.kind == "comix":
        warnings.warn(
            "TokenMix: kind 'comix': expected numba, found none that works, so that each image takes some tenths of a "
            "second: install the extra `fast` (pip install '.[fast]')",
            stacklevel=2,
        )
    return recipe


def _require_followed(given: MapTarget) -> None:
    unseen = (given.bounds == torch.tensor(NOT_FOLLOWED)).all(dim=1) & (given.row != NO_MAP)
    if unseen.any():
        raise ValueError(
            f"TokenMix: targets: expected crops that MapDataset or MapJoin made, found {int(unseen.sum())} of "
            f"{len(unseen)} images that it gave as they are, and that were transformed later; give it the transform "
            "itself, to be followed (create_loader's input_size_choices come after it: leave them out)"
        )


def _draw_box(rng: np.random.Generator, size: tuple[int, int], kept: float) -> Box:
    """CutMix's rectangle: of the image's aspect, 1 - kept in area, centred anywhere, cut at the borders."""
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
    return (1 - covered[0][:, None] * covered[1]).clamp_(min=0)  # which rounding may have passed
