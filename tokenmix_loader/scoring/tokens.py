"""What a store says about a batch of crops: the evidence in each token."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from tokenmix_loader.batch import NO_MAP, Grid, MapTarget
from tokenmix_loader.compiled.door import as_array, compiled_for
from tokenmix_loader.scoring.geometry import SAMPLES, align
from tokenmix_loader.scoring.targets import evidence as evidence_of
from tokenmix_loader.shapes import require_grid, require_shape
from tokenmix_loader.store_access import MapStore, StoreMismatch

Ints = npt.NDArray[np.integer[Any]]
Bools = npt.NDArray[np.bool_]
Array = npt.NDArray[Any]


class Places(NamedTuple):
    """Rows [B] to read and their views [B, 4]; where `missing` [B], if any is, any row and the whole image."""

    rows: Ints
    views: torch.Tensor
    missing: torch.Tensor | None


def read_tokens(store: MapStore, targets: MapTarget, grid: Grid, evidence: str = "logit") -> torch.Tensor:
    """The evidence in each token of a batch of crops, float32 [B, gh, gw]; it sums to what the crop holds of 1.

    `targets` is a batch on the CPU. Images without a map have no evidence. Raises StoreMismatch where the store has
    other labels in these rows: it is not the one that the dataset was joined to; ValueError for other shapes.
    """
    grid = require_grid("read_tokens: grid", grid)
    rows, views, missing = find_places(store, targets)
    raw = store.read(rows)
    if evidence == "logit" and (tokens := _align_logits(raw, views, missing, targets, grid)) is not None:
        return tokens
    maps = evidence_of(raw, evidence)
    tokens = align(maps, views, targets.affine, grid, bounds=targets.bounds, refined=True)
    # As `normalise` before `align`, but of less numbers; without a map or evidence there are none.
    mass = maps.sum(dim=(1, 2))
    nothing = mass <= 0
    if missing is not None:
        nothing |= missing
    return tokens.div_(mass.masked_fill_(nothing, torch.inf)[:, None, None])


def _align_logits(
    raw: Array, views: torch.Tensor, missing: torch.Tensor | None, targets: MapTarget, grid: Grid
) -> torch.Tensor | None:
    """The same in one compiled loop, where that can be; not where a number is not finite, which tensors report."""
    places = views, targets.affine, targets.bounds
    compiled = compiled_for(*places)
    arrays = () if compiled is None else tuple(as_array(part, np.float64) for part in places)
    if compiled is None or not compiled.are_sound(*arrays):
        return None
    present = np.ones(len(raw), np.bool_) if missing is None else ~missing.numpy()
    tokens = compiled.align_logits(np.ascontiguousarray(raw, np.float32), present, *arrays, grid, SAMPLES)
    return None if tokens is None else torch.from_numpy(tokens)


def find_places(store: MapStore, targets: MapTarget) -> Places:
    """Where a batch's maps are; raises what `read_tokens` raises."""
    for name, part, shape in (("label", targets.label, ()), ("place", targets.place, (10,))):
        require_shape(f"read_tokens: targets.{name}", part, (len(targets.row), *shape), "collate whole targets")
    rows = targets.row.numpy()
    missing = rows == NO_MAP
    some = bool(missing.any())
    rows = np.where(missing, 0, rows) if some else rows
    _check_labels(store, rows, targets.label.numpy(), missing)
    views = torch.from_numpy(store.views(rows))
    if not some:
        return Places(rows, views, None)
    views[missing] = torch.tensor([0.0, 0, 1, 1])  # as that of an unreadable image is empty
    return Places(rows, views, torch.from_numpy(missing))


def _check_labels(store: MapStore, rows: Ints, labels: Ints, missing: Bools) -> None:
    stored = store.labels[rows]
    others = stored != labels
    if others.any() and (others & ~missing).any():
        wrong = np.flatnonzero(others & ~missing)
        at = wrong[0]
        raise StoreMismatch(
            f"{store!r}: expected label {labels[at]} in row {rows[at]}, found {stored[at]} and {len(wrong) - 1} "
            "more like it; give the store that the MapDataset was made with"
        )
