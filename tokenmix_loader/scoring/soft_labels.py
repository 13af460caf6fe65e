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
from tokenmix_loader.scoring.read_tokens import find_maps
from tokenmix_loader.store_access import MapStore, StoreMismatch

Array = npt.NDArray[Any]


class _Planes(NamedTuple):
    """Logits of B images in P planes: for each image one per class in the top k of any of its cells, and its label's.

    Plane p, [h, w], belongs to class `classes[p]` of image `owners[p]` and holds by how much its logit is above
    `floor` [B, h, w], the logit of all other classes.
    """

    owners: torch.Tensor
    classes: torch.Tensor
    planes: torch.Tensor
    floor: torch.Tensor


def read_soft_labels(
    store: MapStore, targets: MapTarget, grid: Grid, num_classes: int, *, pooled: bool, smoothing: float = 0.1
) -> SoftLabels:
    """The teacher's probabilities in each token of a batch of crops, T = gh * gw, or, `pooled`, in each crop, T = 1.

    Softmax, over the dataset's K classes, of the mean logit over the area that is seen; outputs of the teacher that
    show no class of the dataset are left out. Outputs outside of a cell's top k share what is left of its probability
    equally; in imported maps, where that is not known, they have logit 0, as published. What sees nothing of a map
    gets the label, with `smoothing`. Raises what `classes_of_outputs` and `read_tokens` raise; StoreError for another
    kind than topk.
    """
    maps = find_maps(store, targets)
    found = _read_planes(store, maps.rows, targets.label, num_classes)
    owners, views = found.owners, maps.views
    area = align(torch.ones_like(found.floor), views, targets.affine, grid, bounds=targets.bounds)
    above = align(found.planes, views[owners], targets.affine[owners], grid, bounds=targets.bounds[owners])
    if pooled:
        area, above = (part.sum((1, 2), keepdim=True) for part in (area, above))
    if maps.missing is not None:
        area[maps.missing] = 0
    return _softmax(found, above.flatten(1), area.flatten(1), targets.label, num_classes, smoothing)


def classes_of_outputs(store: MapStore, num_classes: int) -> Array:
    """The dataset's class that each output of the teacher shows, int64 [outputs]; -1 where it shows none.

    Raises StoreMismatch where the store's dataset does not have `num_classes` classes, and where two of its classes
    are one output: the teacher cannot tell them apart.
    """
    header = store.header
    output_of_class = header.teacher_class
    if len(output_of_class) != num_classes:
        raise StoreMismatch(
            f"{store}: expected num_classes={len(output_of_class)}, the classes of its dataset, found {num_classes}; "
            "pass that number"
        )
    classes = np.arange(num_classes)
    class_of_output = np.full(header.outputs, -1)
    class_of_output[output_of_class] = classes
    if len(shared := np.flatnonzero(class_of_output[output_of_class] != classes)):
        output = output_of_class[shared[0]]
        names: Any = header.dataset["class_names"]
        raise StoreMismatch(
            f"{store}: expected an output of the teacher for each class, found output {output} for both "
            f"{names[shared[0]]!r} and {names[class_of_output[output]]!r}; use supervision 'tokenmix', or a teacher "
            "that tells them apart"
        )
    return class_of_output


def _read_planes(store: MapStore, rows: Array, labels: torch.Tensor, num_classes: int) -> _Planes:
    class_of_output = classes_of_outputs(store, num_classes)
    logits, outputs = store.read_topk(rows)
    _check_range(store, outputs, len(class_of_output), "outputs", "run `tokenmix verify`")
    _check_range(store, labels.numpy(), num_classes, "labels", "check num_classes")
    logits, classes = logits.astype(np.float32), class_of_output[outputs]
    floor = _floor(store, rows, logits)
    # Planes are numbered by (image, class); each image has one of its label, too.
    batch, _, h, w = classes.shape
    image, _, y, x = known = (classes >= 0).nonzero()
    named = image * num_classes + classes[known]
    own = np.arange(batch) * num_classes + labels.numpy()
    unique, plane = np.unique(np.concatenate((named, own)), return_inverse=True)
    planes = np.zeros((len(unique), h, w), np.float32)
    planes[plane[: len(named)], y, x] = (logits - floor[:, None])[known]
    owners, numbers = (torch.from_numpy(part) for part in np.divmod(unique, num_classes))
    return _Planes(owners, numbers, torch.from_numpy(planes), torch.from_numpy(floor))


def _check_range(store: MapStore, found: Array, end: int, what: str, remedy: str) -> None:
    low, high = int(found.min()), int(found.max())
    if low < 0 or high >= end:
        raise ValueError(f"{store}: expected {what} from 0 to {end - 1}, found {low} to {high}; {remedy}")


def _floor(store: MapStore, rows: Array, logits: Array) -> Array:
    """The logit of each of the teacher's outputs outside of a cell's top k, [B, h, w]."""
    others = store.header.outputs - logits.shape[1]
    if store.header.teacher.get("logsumexp") == "unknown" or others <= 0:
        return np.zeros((len(logits), *logits.shape[2:]), np.float32)
    total = store.read_logsumexp(rows).astype(np.float32)
    left = 1 - np.exp(logits - total[:, None]).sum(axis=1)
    # Rounding may leave nothing, or less; no output outside of the top k has more than the last inside.
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
