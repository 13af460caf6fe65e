"""Some images of a folder: which ones, decoded, and as a training loop gets them, with `MapTarget`s of a store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.data import default_collate
from torchvision import transforms as tv

from extract.images import list_images
from extract.images.image_list import ImageList
from tokenmix_loader import MapDataset, MapStore
from tokenmix_loader.batch import MapTarget

SIDE_PX = 224


def choose(labels: npt.NDArray[Any], count: int, rng: np.random.Generator) -> list[int]:
    """Rows of `count` images, of different classes as far as there are any."""
    order = rng.permutation(len(labels))
    first_of_class = np.sort(np.unique(labels[order], return_index=True)[1])
    return [*order[first_of_class].tolist(), *np.delete(order, first_of_class).tolist()][:count]


def decoded(listed: ImageList, rows: Sequence[int]) -> list[Image.Image]:
    """These images, in RGB."""
    pictures = []
    for row in rows:
        with listed.open(row) as file, Image.open(file) as encoded:
            pictures.append(encoded.convert("RGB"))
    return pictures


def whole_images(
    images: Path, store: MapStore, count: int, rng: np.random.Generator
) -> tuple[torch.Tensor, MapTarget, list[str], list[str]]:
    """float32 [B, 3, 224, 224] from 0 to 1, whole images squashed; their targets; their keys; all class names."""
    listed = list_images(images)
    rows = choose(listed.labels, count, rng)
    keys = [listed.keys[row] for row in rows]
    labels = [int(listed.labels[row]) for row in rows]
    pairs = list(zip(decoded(listed, rows), labels, strict=True))
    transform = tv.Compose([tv.Resize((SIDE_PX, SIDE_PX)), tv.ToTensor()])
    root = images if images.is_dir() else None  # without it, files cannot be compared
    dataset = MapDataset(pairs, store, transform, keys=keys, labels=labels, root=root)
    pixels, targets = default_collate([dataset[i] for i in range(len(pairs))])
    return pixels, targets, keys, list(listed.class_names)
