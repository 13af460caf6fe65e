"""TokenMix of whole batches, in the place of timm's Mixup (TokenMix, Sec. 3; Mixup: arXiv 1710.09412)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tokenmix_loader._store import MapStore
from tokenmix_loader.dataset import NO_MAP, MapTarget
from tokenmix_loader.geometry import align
from tokenmix_loader.masks import sample_masks
from tokenmix_loader.shapes import Grid, require_choice, require_shape
from tokenmix_loader.targets import EVIDENCE, MIN_EVIDENCE, SUPERVISIONS, dense_targets, mix_targets, normalise
from tokenmix_loader.targets import evidence as evidence_of

Batch = tuple[torch.Tensor, torch.Tensor]


class TokenMix:
    """Mixes a batch with itself in reverse order, as timm's Mixup does, and scores labels by the teacher's maps.

        tokenmix = TokenMix(store, num_classes=1000, grid=(14, 14), rng=np.random.default_rng(seed + rank))
        images, targets = tokenmix(images, targets)

    Each batch is mixed with probability `prob`; of those, the share `switch_prob` by TokenMix, the rest by
    Mixup: as in timm, where it is the share of CutMix. In a batch of odd size the middle image
    meets itself and stays as it is. `mixup_enabled = False` turns all mixing off.
    """

    def __init__(
        self,
        store: MapStore,
        num_classes: int,
        grid: Grid,
        *,
        rng: np.random.Generator,
        kind: str = "block",
        kept: float = 0.5,
        evidence: str = "logit",
        supervision: str = "tokenmix",
        mixup_alpha: float = 0.8,
        switch_prob: float = 0.5,
        prob: float = 1.0,
        smoothing: float = 0.1,
        min_evidence: float = MIN_EVIDENCE,
        **mask_options: Any,
    ) -> None:
        """Settings; `kind`, `kept` and `mask_options` are those of `sample_masks`, the others those of `mix_targets`.

        `grid` (gh, gw) is the student's; `mixup_alpha` = 0 leaves Mixup out. All draws are from `rng`.
        Raises ValueError for a setting out of range.
        """
        require_choice("TokenMix: evidence", evidence, tuple(EVIDENCE))
        require_choice("TokenMix: supervision", supervision, SUPERVISIONS)
        for name, share in (("switch_prob", switch_prob), ("prob", prob), ("smoothing", smoothing)):
            if not 0 <= share <= 1:
                raise ValueError(f"TokenMix: {name}: expected a share from 0 to 1, found {share}; change the setting")
        self.mixup_enabled = True
        self._store, self._grid, self._rng = store, grid, rng
        self._masks = {"kind": kind, "kept": kept, **mask_options}
        self._evidence = evidence
        self._scoring: dict[str, Any] = {"supervision": supervision, "min_evidence": min_evidence}
        self._dense: dict[str, Any] = {"num_classes": num_classes, "smoothing": smoothing}
        self._mixup_alpha, self._switch_prob, self._prob = mixup_alpha, switch_prob, prob
        sample_masks(np.random.default_rng(0), 1, grid, **self._masks)  # a wrong option fails here, not in the loop

    def __call__(self, images: torch.Tensor, targets: MapTarget) -> Batch:
        """Mixed images and dense targets, float32 [B, K] on the images' device.

        `images`: float [B, C, H, W] on any device, H and W multiples of the grid's; memory format and dtype
        are kept. `targets`: a batch of `MapTarget`, best left on the CPU, where maps are read and targets
        computed. Raises ValueError for other shapes or dtypes and for labels outside of [0, K).
        """
        targets = targets.to("cpu")
        _check(images, targets)
        if not self.mixup_enabled or self._rng.random() >= self._prob:
            mixed, dense = images, self._blend(1.0, targets)
        elif self._mixup_alpha > 0 and self._rng.random() >= self._switch_prob:
            share = self._rng.beta(self._mixup_alpha, self._mixup_alpha)
            mixed, dense = torch.lerp(images.flip(0), images, share), self._blend(share, targets)
        else:
            mixed, dense = self._tokenmix(images, targets)
        return mixed, dense.to(images.device, non_blocking=True)

    def _tokenmix(self, images: torch.Tensor, targets: MapTarget) -> Batch:
        b = len(images)
        partner = torch.arange(b).flip(0)
        masks = sample_masks(self._rng, b, self._grid, **self._masks)
        tokens = self._tokens(targets)
        dense = mix_targets(tokens, masks, targets.label, partner, **self._dense, **self._scoring)
        return mix_images(images, masks), dense

    def _tokens(self, targets: MapTarget) -> torch.Tensor:
        if self._scoring["supervision"] == "area":
            return torch.zeros(len(targets.row), *self._grid)
        return read_tokens(self._store, targets, self._grid, self._evidence)

    def _blend(self, share: float, targets: MapTarget) -> torch.Tensor:
        """Targets where the whole image is in, `share` of it from a."""
        labels = targets.label
        scores = torch.full(labels.shape, share)
        return dense_targets((scores, 1 - scores), (labels, labels.flip(0)), **self._dense)


def read_tokens(store: MapStore, targets: MapTarget, grid: Grid, evidence: str = "logit") -> torch.Tensor:
    """The evidence in each token of a batch of crops, float32 [B, gh, gw]; it sums to what the crop holds of 1.

    `targets` is a batch on the CPU. Images without a map have no evidence.
    """
    # Any row can stand in for a missing one, but the view of an unreadable image is empty: replace both.
    missing = targets.row == NO_MAP
    rows = targets.row.where(~missing, 0).numpy()
    maps, views = normalise(evidence_of(store.read(rows), evidence)), torch.from_numpy(store.views(rows))
    maps[missing] = 0
    views[missing] = torch.tensor([0.0, 0, 1, 1])
    return align(maps, views, targets.affine, grid, bounds=targets.bounds)


def mix_images(images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """`M * x_a + (1 - M) * x_b` token by token; x_b is the batch in reverse order.

    `images` [B, C, H, W] of any dtype, device and memory format, which the result keeps; `masks` bool [B, gh,
    gw]. Raises ValueError where the grid does not divide the image.
    """
    (height, width), (gh, gw) = images.shape[2:], masks.shape[1:]
    if height % gh or width % gw:
        raise ValueError(
            f"mix_images: expected height and width in multiples of the {gh} x {gw} grid, found {height} x {width}; "
            "set the grid to the student's tokens"
        )
    pixels = masks.to(images.device, non_blocking=True)[:, None]
    pixels = pixels.repeat_interleave(height // gh, dim=2).repeat_interleave(width // gw, dim=3)
    partners = images.flip(0)
    return torch.where(pixels, images, partners, out=partners)


def _check(images: torch.Tensor, targets: MapTarget) -> None:
    require_shape("TokenMix: images", images, (None, None, None, None), "pass a batch [B, C, H, W]")
    if not images.is_floating_point():
        raise ValueError(f"TokenMix: images: expected a float dtype, found {images.dtype}; convert and normalise first")
    for name, part in (("label", targets.label), ("row", targets.row)):
        require_shape(f"TokenMix: targets.{name}", part, (len(images),), "pass the images' own MapTarget")
