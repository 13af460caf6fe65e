"""The teacher's probabilities of a crop or of its tokens, from a store of kind topk.

ReLabel (arXiv 2101.05022) pools the teacher's map over the crop and takes the softmax; TokenLabeling (arXiv 2104.10858)
does so for every token. Here both go through `align`, so a token gets the mean logit of the area that it shows.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from tokenmix_loader.batch import Grid, MapTarget, SoftLabels
from tokenmix_loader.scoring.geometry import align
from tokenmix_loader.scoring.tokens import find_places
from tokenmix_loader.store_access import MapStore

Array = npt.NDArray[Any]


class _Planes(NamedTuple):
    """Logits per class, for the classes that the teacher named anywhere in an image, and the label.

    Plane p [h, w] is class `classes[p]` of image `owners[p]`, above `floor` [B, h, w], the logit of all other classes.
    """

    owners: torch.Tensor
    classes: torch.Tensor
    planes: torch.Tensor
    floor: torch.Tensor


def read_soft_labels(
    store: MapStore, targets: MapTarget, grid: Grid, num_classes: int, *, pooled: bool, smoothing: float = 0.1
) -> SoftLabels:
    """The teacher's probabilities in each token of a batch of crops, T = gh * gw, or, `pooled`, in each crop, T = 1.

    Softmax of the mean logit over the area that is seen. A class outside of a cell's top k has the logit that gives
    all of them together the probability that is left; in imported maps, where that is not known, logit 0, as
    published. What sees nothing of a map gets the label, with `smoothing`. Raises StoreError for another kind than
    topk, ValueError for classes outside of [0, K), StoreMismatch as `read_tokens`.
    """
    places = find_places(store, targets)
    found = _read_planes(store, places.rows, targets.label, num_classes)
    owners = found.owners
    area = align(torch.ones_like(found.floor), places.views, targets.affine, grid, bounds=targets.bounds)
    above = align(found.planes, places.views[owners], targets.affine[owners], grid, bounds=targets.bounds[owners])
    if pooled:
        area, above = (part.sum((1, 2), keepdim=True) for part in (area, above))
    if places.missing is not None:
        area[places.missing] = 0
    return _softmax(found, above.flatten(1), area.flatten(1), targets.label, num_classes, smoothing)


def _read_planes(store: MapStore, rows: Array, labels: torch.Tensor, num_classes: int) -> _Planes:
    logits, classes = store.read_topk(rows)
    highest = max(int(classes.max()), int(labels.max()))
    if highest >= num_classes:
        raise ValueError(f"{store!r}: expected classes below {num_classes}, found {highest}; check num_classes")
    logits = logits.astype(np.float32)
    floor = _floor(store, rows, logits, num_classes)
    batch, k, h, w = classes.shape
    named = (np.arange(batch)[:, None] * num_classes + classes.reshape(batch, -1)).ravel()
    own = np.arange(batch) * num_classes + labels.numpy()
    unique, plane = np.unique(np.concatenate((named, own)), return_inverse=True)
    planes = np.zeros((len(unique), h, w), np.float32)
    y, x = np.indices((batch, k, h, w))[2:].reshape(2, -1)
    planes[plane[: len(named)], y, x] = (logits - floor[:, None]).ravel()
    owners, numbers = (torch.from_numpy(part) for part in np.divmod(unique, num_classes))
    return _Planes(owners, numbers, torch.from_numpy(planes), torch.from_numpy(floor))


def _floor(store: MapStore, rows: Array, logits: Array, num_classes: int) -> Array:
    """The logit of each class outside of a cell's top k, [B, h, w]."""
    others = num_classes - logits.shape[1]
    if store.header.teacher.get("logsumexp") == "unknown" or others <= 0:
        return np.zeros((len(logits), *logits.shape[2:]), np.float32)
    total = store.read_logsumexp(rows).astype(np.float32)
    left = 1 - np.exp(logits - total[:, None]).sum(axis=1)
    # Rounding may leave nothing, or less; no class outside of the top k has more than the last inside.
    floor = total + np.log(np.maximum(left, np.finfo(np.float32).eps) / others)
    found: Array = np.minimum(floor, logits[:, -1])
    return found


def _softmax(
    found: _Planes, above: torch.Tensor, area: torch.Tensor, labels: torch.Tensor, num_classes: int, smoothing: float
) -> SoftLabels:
    """`above` [P, T] is mass of each plane, `area` [B, T] that of ones."""
    owners, classes = found.owners, found.classes
    batch, tokens = area.shape
    counts = torch.bincount(owners, minlength=batch)
    slot = torch.arange(len(owners)) - (counts.cumsum(0) - counts)[owners]
    seen = area > 0
    logit = torch.where(seen[owners], above / area[owners], 0)
    # What sees no map: a softmax that gives the label 1 - s + s / K, and every other class s / K.
    certain = math.log1p((1 - smoothing) * num_classes / max(smoothing, 1e-12))
    logit += torch.where(seen[owners], 0.0, (classes == labels[owners]).float()[:, None] * certain)
    listed = torch.full((batch, int(counts.max()), tokens), -torch.inf)
    listed[owners, slot] = logit
    top = listed.amax(dim=1).clamp(min=0)
    weights = (listed - top[:, None]).exp()
    floor = (-top).exp()
    total = weights.sum(dim=1) + (num_classes - counts)[:, None] * floor
    rest = floor / total
    excess = torch.where(torch.isinf(listed), 0, weights / total[:, None] - rest[:, None])
    names = torch.zeros(batch, listed.shape[1], dtype=torch.long)
    names[owners, slot] = classes
    return SoftLabels(names, excess.mT.contiguous(), rest)
