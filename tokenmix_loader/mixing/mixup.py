"""TokenMix of whole batches on their device, in the place of timm's Mixup."""

from __future__ import annotations

from dataclasses import fields
from os import PathLike
from typing import Any

import numpy as np
import torch

from tokenmix_loader.batch import Grid, MapTarget
from tokenmix_loader.mixing.pixels import mix_floats
from tokenmix_loader.mixing.recipe import Recipe
from tokenmix_loader.shapes import require_grid, require_shape
from tokenmix_loader.store_access import MapStore, open_store

# Targets are a tensor or `TokenTargets`: a loop that asks for one kind should not have to tell them apart.
Batch = tuple[torch.Tensor, Any]


class TokenMix:
    """Mixes a batch with itself in reverse order, as timm's Mixup does, and scores labels by the teacher's maps.

        tokenmix = TokenMix(store, num_classes=1000, grid=(14, 14), rng=np.random.default_rng(seed + rank))
        images, targets = tokenmix(images, targets)

    In a batch of odd size the middle image meets itself and stays as it is. `mixup_enabled = False` turns all
    mixing off.
    """

    def __init__(
        self,
        store: MapStore | str | PathLike[str],
        num_classes: int,
        grid: Grid,
        *,
        rng: np.random.Generator,
        **settings: Any,
    ) -> None:
        """`store` may be its path; `settings` are `Recipe`'s and `sample_masks`'. All draws are from `rng`.

        Raises ValueError for a setting out of range, TypeError for an unknown one, StoreMismatch for a supervision
        that the store does not know.
        """
        self.mixup_enabled = True
        if not isinstance(rng, np.random.Generator):
            raise TypeError(f"TokenMix: rng: expected a numpy.random.Generator, found {rng!r}; pass default_rng(seed)")
        self._store, self._rng = open_store(store), rng
        self._recipe = make_recipe(num_classes, grid, **settings)
        self._recipe.check(self._store)

    def __call__(self, images: torch.Tensor, targets: MapTarget) -> Batch:
        """Mixed images and, on their device, dense targets float32 [B, K] or `TokenTargets`.

        `images`: float [B, C, H, W] on any device, H and W multiples of the grid's; memory format and dtype
        are kept. `targets`: a batch of `MapTarget`, best left on the CPU, where maps are read and targets
        computed. Raises ValueError for other shapes or dtypes and for labels outside of [0, K).
        """
        if not isinstance(targets, MapTarget):
            raise TypeError(
                f"TokenMix: targets: expected a batch of MapTarget, found {type(targets).__name__}; use MapDataset"
            )
        targets = targets.to("cpu")
        _check(images, targets)
        height, width = images.shape[2:]
        draw, dense = self._recipe.mix(self._rng, (height, width), self._store, targets, enabled=self.mixup_enabled)
        return mix_floats(images, draw), dense.to(images.device, non_blocking=True)


def make_recipe(num_classes: int, grid: Grid, **settings: Any) -> Recipe:
    """A recipe of its own settings and those of `sample_masks`, side by side."""
    own = {field.name for field in fields(Recipe)}
    mask_options = {name: settings.pop(name) for name in [*settings] if name not in own}
    return Recipe(num_classes, require_grid("TokenMix: grid", grid), mask_options=mask_options, **settings)


def _check(images: torch.Tensor, targets: MapTarget) -> None:
    require_shape("TokenMix: images", images, (None, None, None, None), "pass a batch [B, C, H, W]")
    if not images.is_floating_point():
        raise ValueError(f"TokenMix: images: expected a float dtype, found {images.dtype}; convert and normalise first")
    for name, part in (("label", targets.label), ("row", targets.row)):
        require_shape(f"TokenMix: targets.{name}", part, (len(images),), "pass the images' own MapTarget")
