"""TokenMix of whole batches on their device, in the place of timm's Mixup."""

from __future__ import annotations

from dataclasses import KW_ONLY, InitVar, dataclass
from os import PathLike
from typing import Any

import numpy as np
import torch

from tokenmix_loader.batch import Grid, MapTarget
from tokenmix_loader.mixing.pixels import mix_batch
from tokenmix_loader.mixing.recipe import make_recipe
from tokenmix_loader.mixing.settings import MixSettings, refusing_unknown
from tokenmix_loader.mixing.unused import say_if_unused
from tokenmix_loader.shapes import require_rng, require_shape
from tokenmix_loader.store_access import MapStore, open_store

# Targets are a tensor or `TokenTargets`: a loop that asks for one kind should not have to tell them apart.
Batch = tuple[torch.Tensor, Any]


@refusing_unknown
@dataclass(eq=False)
class TokenMix(MixSettings):
    """Mixes a batch with itself in reverse order, as timm's Mixup does, and scores labels by the teacher's maps.

        tokenmix = TokenMix(store, num_classes=1000, grid=(14, 14), rng=np.random.default_rng(seed + rank))
        images, targets = tokenmix(images, targets)

    `store` may be its path; `grid` (gh, gw) is the student's; `rng` decides all that is left to chance; the other
    settings are explained at `MixSettings`. In a batch of odd size the middle image meets itself and stays as it is.
    `mixup_enabled = False` turns all mixing off.

    Raises ValueError for a setting out of range, TypeError for an unknown one or one of another type, StoreMismatch for
    a supervision that the store cannot give. To resume a run, keep `rng.bit_generator.state` with the checkpoint.
    """

    store: InitVar[MapStore | str | PathLike[str]]
    num_classes: int
    grid: Grid
    _: KW_ONLY
    rng: np.random.Generator

    def __post_init__(self, store: MapStore | str | PathLike[str]) -> None:
        self.mixup_enabled = True
        require_rng("TokenMix: rng", self.rng)
        self._used = say_if_unused(self)
        self._store = open_store(store)
        self._recipe = make_recipe(self, self.num_classes, self.grid, self._store)

    def __call__(self, images: torch.Tensor, targets: MapTarget) -> Batch:
        """Mixed images and, on their device, dense targets float32 [B, K] or `TokenTargets`.

        `images`: float [B, C, H, W] on any device, H and W multiples of the grid's; memory format and dtype
        are kept. `targets`: a batch of `MapTarget`, best left on the CPU, where maps are read and targets
        computed. Raises ValueError for other shapes or dtypes and for labels outside of [0, K).
        """
        self._used.fill_(True)
        if not isinstance(targets, MapTarget):
            raise TypeError(
                f"TokenMix: targets: expected a batch of MapTarget, found {type(targets).__name__}; use MapDataset"
            )
        targets = targets.to("cpu")
        _check(images, targets)
        draw, dense = self._recipe.mix(self.rng, images, self._store, targets, enabled=self.mixup_enabled)
        return mix_batch(images, draw), dense.to(images.device, non_blocking=True)


def _check(images: torch.Tensor, targets: MapTarget) -> None:
    require_shape("TokenMix: images", images, (None, None, None, None), "pass a batch [B, C, H, W]")
    if not images.is_floating_point():
        raise ValueError(f"TokenMix: images: expected a float dtype, found {images.dtype}; convert and normalise first")
    for name, part in (("label", targets.label), ("row", targets.row)):
        require_shape(f"TokenMix: targets.{name}", part, (len(images),), "pass the images' own MapTarget")
