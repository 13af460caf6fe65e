"""TokenMix in timm's own loader: mixed while batches are collated, in the worker, as uint8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, InitVar, dataclass
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from timm.data import FastCollateMixup

from tokenmix_loader.batch import Grid, MapTarget
from tokenmix_loader.mixing.chance import BatchChance
from tokenmix_loader.mixing.mixup import Batch
from tokenmix_loader.mixing.pixels import mix_batch
from tokenmix_loader.mixing.recipe import make_recipe
from tokenmix_loader.mixing.settings import MixSettings, refusing_unknown
from tokenmix_loader.mixing.unused import say_if_unused
from tokenmix_loader.shapes import require_count
from tokenmix_loader.store_access import MapStore, open_store

Image = torch.Tensor | npt.NDArray[np.uint8]


@refusing_unknown
@dataclass(eq=False)
class TokenMixCollate(MixSettings, FastCollateMixup):  # type: ignore[misc]
    """In the place of timm's FastCollateMixup: uint8 images [B, 3, H, W] and dense targets float32 [B, K].

        dataset = MapDataset(dataset, store)
        collate_fn = TokenMixCollate(store, (14, 14), **mixup_args)

    `store` may be its path; `grid` (gh, gw) is the student's; the other settings are explained at `MixSettings`.

    Nothing is left to do on the device, and nothing but (input, target) reaches it. `mixup_enabled` is shared
    with the workers, so that timm's `--mixup-off-epoch` works with persistent workers too, from the next batch
    that a worker begins. What is left to chance follows from `seed`, the batch's rows and labels, and how often this
    very batch came before: results do not depend on the number of workers, ranks differ because their rows do, and
    epochs even where nothing shuffles them. Only there a resumed run has to say `set_epoch`.

    Raises ValueError for a setting out of range and for a `mode` or `cutmix_minmax` that TokenMix does not
    know, TypeError for an unknown setting or one of another type, StoreMismatch for a supervision that the store cannot
    give.
    """

    store: InitVar[MapStore | str | PathLike[str]]
    grid: Grid
    _: KW_ONLY
    num_classes: int = 1000
    seed: int = 0

    def __post_init__(self, store: MapStore | str | PathLike[str]) -> None:
        self.seed = require_count("TokenMixCollate: seed", self.seed, 0)
        self._used = say_if_unused(self)
        self._enabled = torch.ones(1, dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]
        self._store = open_store(store)
        _ = self._store.labels  # read before workers are forked, so that they share it
        self._chance = BatchChance(self.seed, len(self._store))
        self._recipe = make_recipe(self, self.num_classes, self.grid, self._store)
        # timm's loader accepts its own class only; this sets that one's attributes.
        FastCollateMixup.__init__(
            self,
            self.mixup_alpha,
            self.cutmix_alpha,
            prob=self.prob,
            switch_prob=self.switch_prob,
            label_smoothing=self.label_smoothing,
            num_classes=self.num_classes,
        )

    @property
    def mixup_enabled(self) -> bool:
        """Whether batches are mixed; all processes see a change."""
        return bool(self._enabled)

    @mixup_enabled.setter
    def mixup_enabled(self, enabled: bool) -> None:
        self._enabled.fill_(bool(enabled))

    def set_epoch(self, epoch: int) -> None:
        """Draw from here on as an undisturbed run draws in this epoch, the first being 0; all processes see it.

        Call it, as a sampler's `set_epoch`, before every epoch or, to resume, before the first. A run whose batches
        differ from epoch to epoch, as those of a shuffled loader do, does not need it. Without shuffling, batches that
        have no map at all repeat their draws unless it is called before every epoch.
        """
        self._chance.set_epoch(require_count("TokenMixCollate.set_epoch: epoch", epoch, 0))

    def __call__(self, batch: Sequence[tuple[Image, MapTarget]], _: object = None) -> Batch:
        """Collate samples of a `MapDataset`: images uint8 [3, H, W], tensors or arrays.

        Raises TypeError for other samples, ValueError for none and where the grid does not divide the images.
        """
        self._used.fill_(True)
        _require_pairs(batch)
        targets = collate_targets([target for _, target in batch])
        if not isinstance(batch[0][0], torch.Tensor | np.ndarray):
            raise TypeError(
                f"TokenMixCollate: expected uint8 images as tensors or arrays, found {type(batch[0][0]).__name__}; "
                "give MapDataset a transform, and wrap a Subset by MapDataset, not the other way round"
            )
        images = torch.stack([torch.as_tensor(image) for image, _ in batch])
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise TypeError(
                f"TokenMixCollate: expected uint8 images [3, H, W], found {images.dtype} {list(images.shape[1:])}; "
                "leave ToTensor and Normalize to the device (create_loader does), or use TokenMix behind the loader"
            )
        rng = self._chance.rng_of(targets)
        draw, dense = self._recipe.mix(rng, images, self._store, targets, enabled=self.mixup_enabled)
        return mix_batch(images, draw), dense


def _require_pairs(batch: Sequence[Any]) -> None:
    """Raise ValueError for no sample, TypeError for one that is not (image, MapTarget)."""
    if not len(batch):
        raise ValueError("TokenMixCollate: expected samples, found an empty batch; look at what the sampler gives")
    for sample in batch:
        is_pair = isinstance(sample, tuple | list) and len(sample) == 2
        if is_pair and isinstance(sample[1], MapTarget):
            continue
        parts = sample if isinstance(sample, tuple | list) and not isinstance(sample, MapTarget) else (sample,)
        found = (
            type(sample[1]).__name__ if is_pair else f"samples of {', '.join(type(part).__name__ for part in parts)}"
        )
        raise TypeError(
            f"TokenMixCollate: expected pairs of an image and a MapDataset's target, found {found}; wrap the dataset: "
            "MapDataset(dataset, store), and give the loader its samples as they are"
        )


def collate_targets(targets: Sequence[MapTarget]) -> MapTarget:
    """Targets of single images as those of a batch."""
    labels, rows, places, stores = zip(*targets, strict=True)
    label, row, store = torch.from_numpy(np.array((labels, rows, stores), np.int64))
    return MapTarget(label, row, torch.from_numpy(np.concatenate(places).reshape(len(targets), -1)), store)
