"""A dataset as a source of images: torchvision's, timm's, Hugging Face's, Subsets of them, or any with given keys."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from typing import Any, BinaryIO

import numpy as np
from timm.data import ImageDataset
from torch.utils.data import ConcatDataset, IterableDataset, Subset
from torchvision.datasets import DatasetFolder

from tokenmix_loader.join.folders import timm_files, timm_names, torchvision_files, torchvision_names
from tokenmix_loader.join.source import Files, Ints, Labels, Source, image_in
from tokenmix_loader.join.tables import TableImages, is_table, require_plain_table, table_keys, table_labels


@dataclass(frozen=True)
class Given:
    """What is said about a dataset beside the dataset itself; `MapDataset` explains it."""

    keys: Sequence[str] | None = None
    labels: Labels | None = None
    root: str | PathLike[str] | None = None
    input_key: str = "image"
    target_key: str = "label"


def source_of(dataset: Any, given: Given) -> Source:
    """Keys, labels and images of a dataset.

    torchvision's ImageFolder, timm's ImageDataset (folder, tar or `hfds/`), Hugging Face's Dataset and torch's Subsets
    of them know their keys. Any other dataset of (PIL image, label) pairs or mappings needs `keys`, and `labels` unless
    it has `targets`. timm's own retry, which would return the next image for one that cannot be read, is not used.
    Raises TypeError for a dataset without keys and for a subclass that loads in its own way, ValueError for lists of
    different lengths, for a dataset with a target_transform and, with `keys`, for one with a transform, which would not
    be traced.
    """
    if getattr(dataset, "target_transform", None) is not None:
        raise ValueError(f"{_name(dataset)}.target_transform: expected None, found one; maps belong to plain labels")
    if given.keys is not None:
        _refuse_transforms(dataset)
        return _under_given_keys(dataset, _texts(given.keys), given)
    if given.root is not None or (given.labels is not None and not is_table(dataset)):
        what = "labels" if given.root is None else "root"
        raise ValueError(
            f"MapDataset: {what}: expected keys with it, found none, and {_name(dataset)} has its own; leave it out, "
            "or pass keys=[...]"
        )
    if isinstance(dataset, Subset) and not is_table(dataset):
        _refuse_own_loading(dataset)
        return source_of(dataset.dataset, given).part(dataset.indices)
    files = _files_of(dataset, given)
    if files is None:
        _refuse_own_loading(dataset)
        raise TypeError(
            "MapDataset: expected torchvision's ImageFolder, timm's ImageDataset, Hugging Face's Dataset, a Subset of "
            f"one, or keys, found {_name(dataset)}; {_way_out(dataset)}"
        )
    keys, labels = _names_of(dataset, given)
    return _source(dataset, keys, labels, files)


def _source(dataset: Any, keys: Sequence[str], labels: Labels, files: Files) -> Source:
    if not len(dataset) == len(keys) == len(labels):
        raise ValueError(
            f"{_name(dataset)}: expected one key and one label per image, found {len(dataset)} images, "
            f"{len(keys)} keys, {len(labels)} labels; pass the lists in the dataset's order"
        )
    return Source(keys, _whole_numbers(dataset, labels), files, np.arange(len(keys)))


def _under_given_keys(dataset: Any, keys: Sequence[str], given: Given) -> Source:
    labels = getattr(dataset, "targets", None) if given.labels is None else given.labels
    if labels is None and is_table(dataset):
        labels = table_labels(dataset, given.target_key)
    if labels is None:
        raise TypeError(f"{_name(dataset)}: expected labels, found neither `labels` nor `targets`; pass labels=[...]")
    files = _files_of(dataset, given)
    if files is None:
        files = Files(partial(_load_sample, dataset, given.input_key), keys.__getitem__)
    if given.root is not None:
        files = replace(files, open=partial(_open_below, given.root, keys))
    return _source(dataset, keys, labels, files)


def _texts(keys: Any) -> list[str]:
    texts = list(keys)
    if other := {kind for kind in set(map(type, texts)) if not issubclass(kind, str)}:
        found = ", ".join(sorted(kind.__name__ for kind in other))
        raise TypeError(
            f"MapDataset: keys: expected texts, paths relative to the dataset's root, found {found}; pass str(key)"
        )
    return texts


def _files_of(dataset: Any, given: Given) -> Files | None:
    """How the images of a known kind of dataset are loaded; None for other kinds, and where a subclass does it."""
    if is_table(dataset):
        require_plain_table(dataset, given.input_key)
        images = TableImages(dataset, given.input_key)
        return Files(images.load, images.name, images.open)
    if _loads_as(dataset, DatasetFolder):
        return torchvision_files(dataset)
    if _loads_as(dataset, ImageDataset):
        return timm_files(dataset)
    if _loads_as(dataset, Subset):
        files = _files_of(dataset.dataset, given)
        return files and files.part([int(index) for index in dataset.indices])
    return None


def _names_of(dataset: Any, given: Given) -> tuple[Sequence[str], Labels]:
    """Keys and labels of a dataset of which `_files_of` knows the kind."""
    if is_table(dataset):
        keys, labels = table_keys(dataset, given.input_key), given.labels
        return keys, table_labels(dataset, given.target_key) if labels is None else labels
    return torchvision_names(dataset) if isinstance(dataset, DatasetFolder) else timm_names(dataset)


def _loads_as(dataset: Any, kind: type[Any]) -> bool:
    return isinstance(dataset, kind) and type(dataset).__getitem__ is kind.__getitem__


def _refuse_own_loading(dataset: Any) -> None:
    """Files are read by key here, so the loading code of a subclass would never run."""
    for kind in (DatasetFolder, ImageDataset, Subset):
        if isinstance(dataset, kind) and not _loads_as(dataset, kind):
            raise TypeError(
                f"MapDataset: expected {kind.__name__}'s own way of loading, found another in {_name(dataset)}; "
                "pass keys=[...], one path relative to the dataset's root per image"
            )


def _way_out(dataset: Any) -> str:
    if isinstance(dataset, Mapping):
        return f"choose one of its splits: {', '.join(map(repr, dataset))}"
    if isinstance(dataset, ConcatDataset):
        return "make a MapDataset of each part, and a ConcatDataset of those"
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        return "join what comes as a stream sample by sample, with MapJoin"
    return "pass keys=[...], one path relative to the dataset's root per image"


def _refuse_transforms(dataset: Any) -> None:
    """Of the dataset and of those that Subset and ConcatDataset wrap."""
    if any(getattr(dataset, name, None) is not None for name in ("transform", "transforms")):
        raise ValueError(
            f"{_name(dataset)}.transform: expected None, found one, which may move what the maps show; "
            "give it to MapDataset instead"
        )
    for inner in (getattr(dataset, "dataset", None), *getattr(dataset, "datasets", ())):
        if inner is not None:
            _refuse_transforms(inner)


def _whole_numbers(dataset: Any, labels: Labels) -> Ints:
    given = np.asarray(labels)
    if given.ndim != 1 or not np.issubdtype(given.dtype, np.integer):
        raise TypeError(
            f"{_name(dataset)}: expected one whole number per label, found {given.dtype} {list(given.shape)}; "
            "pass class indices"
        )
    return given.astype(np.int64)


def _load_sample(dataset: Any, input_key: str, number: int) -> Any:
    return image_in(f"{_name(dataset)}[{number}]", dataset[number], input_key)


def _open_below(root: str | PathLike[str], keys: Sequence[str], number: int) -> BinaryIO:
    return open(os.path.join(root, keys[number]), "rb")


def _name(thing: object) -> str:
    return type(thing).__name__
