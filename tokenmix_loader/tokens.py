"""What a store says about a batch of crops: the evidence in each token."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from tokenmix_loader._store import MapStore, StoreMismatch
from tokenmix_loader.dataset import NO_MAP, MapTarget
from tokenmix_loader.geometry import align
from tokenmix_loader.shapes import Grid
from tokenmix_loader.targets import evidence as evidence_of
from tokenmix_loader.targets import normalise

Ints = npt.NDArray[np.integer[Any]]
Bools = npt.NDArray[np.bool_]


class Places(NamedTuple):
    """Rows [B] to read and their views [B, 4]; where `missing` [B], another image's row and the whole image."""

    rows: Ints
    views: torch.Tensor
    missing: torch.Tensor


def read_tokens(store: MapStore, targets: MapTarget, grid: Grid, evidence: str = "logit") -> torch.Tensor:
    """The evidence in each token of a batch of crops, float32 [B, gh, gw]; it sums to what the crop holds of 1.

    `targets` is a batch on the CPU. Images without a map have no evidence. Raises StoreMismatch where the store has
    other labels in these rows: it is not the one that the dataset was joined to.
    """
    rows, views, missing = find_places(store, targets)
    maps = normalise(evidence_of(store.read(rows), evidence))
    if missing.any():
        maps[missing] = 0
    return align(maps, views, targets.affine, grid, bounds=targets.bounds, refined=True)


def find_places(store: MapStore, targets: MapTarget) -> Places:
    """Where a batch's maps are; raises what `read_tokens` raises."""
    missing = targets.row == NO_MAP
    rows = targets.row.where(~missing, 0).numpy()
    _check_labels(store, rows, targets.label.numpy(), missing.numpy())
    views = torch.from_numpy(store.views(rows))
    if missing.any():  # any row can stand in for a missing one, but the view of an unreadable image is empty
        views[missing] = torch.tensor([0.0, 0, 1, 1])
    return Places(rows, views, missing)


def _check_labels(store: MapStore, rows: Ints, labels: Ints, missing: Bools) -> None:
    stored = store.labels[rows]
    wrong = np.flatnonzero((stored != labels) & ~missing)
    if len(wrong):
        at = wrong[0]
        raise StoreMismatch(
            f"{store!r}: expected label {labels[at]} in row {rows[at]}, found {stored[at]} and {len(wrong) - 1} "
            "more like it; give the store that the MapDataset was made with"
        )
