"""A dataset as keys, labels and images: torchvision's and timm's folders, or any dataset with given keys."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from timm.data import ImageDataset
from torch.utils.data import Dataset
from torchvision.datasets import DatasetFolder

from tokenmix_loader.store_access import names_or_numbers

Labels = Sequence[int] | npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Source:
    """N images in order: keys are paths relative to the dataset's root, '/' separated."""

    keys: Sequence[str]
    labels: npt.NDArray[np.int64]
    load: Callable[[int], Image.Image]


def source_of(dataset: Any, keys: Sequence[str] | None = None, labels: Labels | None = None) -> Source:
    """Keys, labels and images of a dataset.

    torchvision's ImageFolder and timm's ImageDataset (folder, tar or `hfds/`) know their keys. For any other dataset
    of (PIL image, label) pairs give `keys`, and `labels` unless it has `targets`. `load` raises OSError where an
    image cannot be read; timm's own retry, which would return the next image, is not used. Raises TypeError
    for a dataset without keys and for a subclass that loads in its own way, ValueError for lists of different
    lengths, for a dataset with a target_transform and, with `keys`, for one with a transform, which would not be
    traced.
    """
    if getattr(dataset, "target_transform", None) is not None:
        raise ValueError(f"{_name(dataset)}.target_transform: expected None, found one; maps belong to plain labels")
    if keys is not None:
        _refuse_transforms(dataset)
        labels = getattr(dataset, "targets", None) if labels is None else labels
        source = _pairs(dataset, keys, labels)
    elif isinstance(dataset, DatasetFolder):
        _refuse_own_loading(dataset, DatasetFolder)
        source = _torchvision_folder(dataset)
    elif isinstance(dataset, ImageDataset):
        _refuse_own_loading(dataset, ImageDataset)
        source = _timm_dataset(dataset)
    else:
        raise TypeError(
            f"MapDataset: expected torchvision's ImageFolder, timm's ImageDataset or keys, found {_name(dataset)}; "
            "pass keys=[...], one path relative to the dataset's root per image"
        )
    if not len(dataset) == len(source.keys) == len(source.labels):
        raise ValueError(
            f"{_name(dataset)}: expected one key and one label per image, found {len(dataset)} images, "
            f"{len(source.keys)} keys, {len(source.labels)} labels; pass the lists in the dataset's order"
        )
    return source


def _refuse_own_loading(dataset: Any, kind: type[Dataset[Any]]) -> None:
    """Files are read by key here, so the loading code of a subclass would never run."""
    if type(dataset).__getitem__ is not kind.__getitem__:
        raise TypeError(
            f"MapDataset: expected {kind.__name__}'s own way of loading, found another in {_name(dataset)}; "
            "pass keys=[...], one path relative to the dataset's root per image"
        )


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


def _pairs(dataset: Any, keys: Sequence[str], labels: Labels | None) -> Source:
    if labels is None:
        raise TypeError(f"{_name(dataset)}: expected labels, found neither `labels` nor `targets`; pass labels=[...]")
    given = np.asarray(labels)
    if given.ndim != 1 or not np.issubdtype(given.dtype, np.integer):
        raise TypeError(
            f"{_name(dataset)}: expected one whole number per label, found {given.dtype} {list(given.shape)}; "
            "pass class indices"
        )
    return Source(keys, given.astype(np.int64), partial(_load_pair, dataset))


def _load_pair(dataset: Any, index: int) -> Image.Image:
    return require_pil(f"{_name(dataset)}[{index}]", dataset[index][0])


def require_pil(where: str, image: Any) -> Image.Image:
    """The image itself; TypeError for anything else, which may have been moved since it was decoded."""
    if not isinstance(image, Image.Image):
        raise TypeError(
            f"{where}: expected a PIL image, found {type(image).__name__}; give the transform to MapDataset instead"
        )
    return image


def _torchvision_folder(dataset: Any) -> Source:
    root, paths = Path(dataset.root), [path for path, _ in dataset.samples]
    keys = [Path(path).relative_to(root).as_posix() for path in paths]
    # From `samples` and as it is now, as ImageFolder itself does; `targets` may be out of date.
    labels = np.array([label for _, label in dataset.samples], np.int64)
    return Source(keys, labels, partial(_load_file, dataset.loader, paths))


def _load_file(loader: Callable[[str], Any], paths: Sequence[str], index: int) -> Image.Image:
    path = paths[index]
    try:
        image = loader(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    return require_pil(path, image)


def _timm_dataset(dataset: Any) -> Source:
    reader = dataset.reader
    if hasattr(reader, "image_key"):
        given = np.fromiter(reader.iter_targets(), np.int64, len(reader))
        return Source(_table_keys(reader.dataset, reader.image_key), given, partial(_load_sample, dataset))
    if not hasattr(reader, "samples"):
        raise TypeError(
            f"MapDataset: expected a timm reader that lists its samples, found {_name(reader)}; pass keys and labels"
        )
    labels = reader.targets if hasattr(reader, "targets") else [label for _, label in reader.samples]
    keys = [name.replace(os.sep, "/") for name in reader.filenames()]
    return Source(keys, np.asarray(labels, np.int64), partial(_load_sample, dataset))


def _table_keys(table: Any, image_column: str) -> Sequence[str]:
    """Keys of a Hugging Face dataset, as its rows were written, even if rows were selected or shuffled since."""
    parts = table.data.column(image_column).chunks  # without reading the images' bytes
    keys = names_or_numbers([path for part in parts for path in part.field("path").to_pylist()])
    return keys if table._indices is None else [keys[row] for row in table._indices.column(0).to_pylist()]


def _load_sample(dataset: Any, index: int) -> Image.Image:
    try:
        with dataset.reader[index][0] as file, Image.open(file) as encoded:
            image: Image.Image = encoded.convert(dataset.input_img_mode or encoded.mode)
    except OSError as error:
        raise _unreadable(dataset.filename(index, absolute=True), error) from error
    return image


def _unreadable(path: str, error: OSError) -> OSError:
    return OSError(f"{path}: expected an image, found {error}; repair the file or take it out of the dataset")


def _name(thing: object) -> str:
    return type(thing).__name__
