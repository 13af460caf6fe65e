"""What a store says about a batch of crops: the evidence in each token."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from tokenmix_loader.batch import ANY_STORE, NO_MAP, Grid, MapTarget
from tokenmix_loader.compiled.door import as_array, compiled_for
from tokenmix_loader.scoring.evidence import evidence as evidence_of
from tokenmix_loader.scoring.evidence import evidence_for
from tokenmix_loader.scoring.geometry import SAMPLES, align
from tokenmix_loader.shapes import require_grid, require_shape
from tokenmix_loader.store_access import MapStore, StoreMismatch, name_of

Ints = npt.NDArray[np.integer[Any]]
Bools = npt.NDArray[np.bool_]
Array = npt.NDArray[Any]


class FoundMaps(NamedTuple):
    """Rows [B] to read and their views [B, 4]; `missing` bool [B]: which images have no map, None where all have one.

    An image without a map has row 0 and the view of the whole image, as placeholders.
    """

    rows: Ints
    views: torch.Tensor
    missing: torch.Tensor | None


def read_tokens(store: MapStore, targets: MapTarget, grid: Grid, evidence: str = "auto") -> torch.Tensor:
    """The evidence in each token of a batch of crops, float32 [B, gh, gw].

    It sums to the share of the map's evidence inside the crop. `evidence`: a kind of `evidence`, or "auto", which the
    kind of the maps decides (`evidence_for`). `targets` is a batch on the CPU. Images without a map
    have no evidence. Raises StoreMismatch where rows are another store's, or have other labels in this one: it is not
    the one that the dataset was joined to; ValueError for other shapes, TypeError for other types.
    """
    grid = require_grid("read_tokens: grid", grid)
    for name, given, kind in (("store", store, MapStore), ("targets", targets, MapTarget)):
        if not isinstance(given, kind):
            raise TypeError(
                f"read_tokens: {name}: expected a {kind.__name__}, found {type(given).__name__}; open a store "
                "by MapStore(path), and collate what MapDataset gives"
            )
    found = find_maps(store, targets)
    raw = store.read(found.rows)
    evidence = evidence_for(store.kind, evidence)
    if evidence == "logit" and (tokens := _align_logits(raw, found, targets, grid)) is not None:
        return tokens
    maps = evidence_of(raw, evidence)
    tokens = align(maps, found.views, targets.affine, grid, bounds=targets.bounds, refined=True)
    # The same as `normalise` before `align`, but on smaller arrays.
    mass = maps.sum(dim=(1, 2))
    nothing = mass <= 0
    if found.missing is not None:
        nothing |= found.missing
    return tokens.div_(mass.masked_fill_(nothing, torch.inf)[:, None, None])


def _align_logits(raw: Array, found: FoundMaps, targets: MapTarget, grid: Grid) -> torch.Tensor | None:
    """The same in a compiled loop; None without one, and for numbers that are not finite, which tensor code reports."""
    places = found.views, targets.affine, targets.bounds
    loops = compiled_for(*places)
    if loops is None:
        return None
    arrays = [as_array(part, np.float64) for part in places]
    if not loops.are_valid(*arrays):
        return None
    present = np.ones(len(raw), np.bool_) if found.missing is None else ~found.missing.numpy()
    tokens = loops.align_logits(np.ascontiguousarray(raw, np.float32), present, *arrays, grid, SAMPLES)
    return None if tokens is None else torch.from_numpy(tokens)


def find_maps(store: MapStore, targets: MapTarget) -> FoundMaps:
    """Where a batch's maps are; raises what `read_tokens` raises."""
    require_shape("read_tokens: targets.row", targets.row, (None,), "collate the targets of images to those of a batch")
    for name, part, shape in (("label", targets.label, ()), ("place", targets.place, (10,))):
        require_shape(f"read_tokens: targets.{name}", part, (len(targets.row), *shape), "collate whole targets")
    missing = targets.row.numpy() == NO_MAP
    rows = np.where(missing, 0, targets.row.numpy())
    require_own_rows(store, targets)
    _check_labels(store, rows, targets.label.numpy(), missing)
    views = torch.from_numpy(store.views(rows))
    if not missing.any():
        return FoundMaps(rows, views, None)
    views[missing] = torch.tensor([0.0, 0, 1, 1])  # the view of an unreadable image is empty
    return FoundMaps(rows, views, torch.from_numpy(missing))


def require_own_rows(store: MapStore, targets: MapTarget) -> None:
    """Raise StoreMismatch for a batch, on the CPU, with rows of another store, which mean nothing in this one."""
    rows, given = targets.row.numpy(), np.asarray(targets.store)
    own = store.header.identities(rows)
    foreign = np.flatnonzero((given != own) & (given != ANY_STORE) & (rows != NO_MAP))
    if len(foreign):
        others = ", ".join(name_of(number) for number in np.unique(given[foreign]).tolist())
        raise StoreMismatch(
            f"{store}: expected rows of this store, found those of {others} for {len(foreign)} of {len(rows)} "
            "images; give the store that the MapDataset was made with; for several datasets, bring all images into one "
            "store by `tokenmix extract --extend`, or keep their batches apart, each with a TokenMix of its own"
        )


def _check_labels(store: MapStore, rows: Ints, labels: Ints, missing: Bools) -> None:
    stored = store.labels[rows]
    wrong = np.flatnonzero((stored != labels) & ~missing)
    if len(wrong):
        at = wrong[0]
        raise StoreMismatch(
            f"{store}: expected label {labels[at]} in row {rows[at]}, found {stored[at]} and {len(wrong) - 1} "
            "more like it; give the store that the MapDataset was made with"
        )
