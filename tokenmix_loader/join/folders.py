"""torchvision's and timm's own datasets as sources of images: folders, tars and timm's reader of tables."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from timm.data.readers.reader_image_folder import ReaderImageFolder
from torchvision.datasets.folder import default_loader, pil_loader

from tokenmix_loader.join.source import Files, Labels
from tokenmix_loader.join.tables import table_keys
from tokenmix_loader.join.timm_files import open_timm_file

_TWO_SEPARATORS = 2 * os.sep


def torchvision_files(dataset: Any) -> Files:
    """Of a DatasetFolder, by its own loader."""
    paths = [path for path, _ in dataset.samples]
    return Files(
        partial(_load, dataset.loader, paths),
        paths.__getitem__,
        partial(_open, paths),
        may_turn=dataset.loader not in (default_loader, pil_loader),
        transform=dataset.transform,
    )


def torchvision_names(dataset: Any) -> tuple[Sequence[str], Labels]:
    """Keys and labels of a DatasetFolder.

    From `samples` and as it is now, as ImageFolder itself does; `targets` may be out of date.
    """
    paths, labels = [path for path, _ in dataset.samples], [label for _, label in dataset.samples]
    return keys_below(dataset.root, paths), labels


def timm_files(dataset: Any) -> Files:
    """Of an ImageDataset, decoded as it does; but its retry, which returns another image, is left out."""
    load, open_file = partial(_load_timm, dataset), partial(open_timm_file, dataset.reader)
    return Files(load, partial(_timm_name, dataset), open_file, may_turn=False, transform=dataset.transform)


def timm_names(dataset: Any) -> tuple[Sequence[str], Labels]:
    """Keys and labels of an ImageDataset; TypeError for a reader that lists nothing."""
    reader = dataset.reader
    if hasattr(reader, "image_key"):
        labels = np.fromiter(reader.iter_targets(), np.int64, len(reader))
        return table_keys(reader.dataset, reader.image_key), labels
    if not hasattr(reader, "samples"):
        raise TypeError(
            f"MapDataset: expected a timm reader that lists its samples, found {type(reader).__name__}; pass keys and "
            "labels"
        )
    if isinstance(reader, ReaderImageFolder):
        keys = keys_below(reader.root, [path for path, _ in reader.samples])
    else:
        keys = [name.replace(os.sep, "/") for name in reader.filenames()]
    return keys, reader.targets if hasattr(reader, "targets") else [label for _, label in reader.samples]


def keys_below(root: str | PathLike[str], paths: Sequence[str]) -> list[str]:
    """Paths relative to root, '/' separated; ValueError for one that does not lie below.

    By slicing where the text allows it: pathlib and relpath take 5 microseconds and more for each.
    """
    front = os.path.join(os.fspath(root), "")
    start = len(front)
    keys = [path[start:] if path.startswith(front) else "" for path in paths]
    odd = [i for i, key in enumerate(keys) if not key or key[0] == os.sep or _TWO_SEPARATORS in key]
    for i in odd:
        keys[i] = _relative(root, paths[i])
    return keys if os.sep == "/" else [key.replace(os.sep, "/") for key in keys]


def _relative(root: str | PathLike[str], path: str) -> str:
    try:
        return str(Path(os.path.abspath(path)).relative_to(os.path.abspath(root)))
    except ValueError as error:
        raise ValueError(
            f"{path}: expected a file below the dataset's root {os.fspath(root)}, found another; pass keys=[...]"
        ) from error


def _load(loader: Callable[[str], Any], paths: Sequence[str], number: int) -> Any:
    return loader(paths[number])


def _open(paths: Sequence[str], number: int) -> BinaryIO:
    return open(paths[number], "rb")


def _timm_name(dataset: Any, number: int) -> str:
    return str(dataset.filename(number, absolute=True))


def _load_timm(dataset: Any, number: int) -> Image.Image:
    with dataset.reader[number][0] as file, Image.open(file) as encoded:
        image: Image.Image = encoded.convert(dataset.input_img_mode or encoded.mode)
    return image
