"""Some images of a folder as a training loop gets them: a batch of pixels and `MapTarget`s of a store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import default_collate
from torchvision import transforms as tv

from extract.images import list_images
from recipes.evaluate.attention import choose, decoded
from tokenmix_loader import MapDataset, MapStore
from tokenmix_loader.batch import MapTarget

SIDE_PX = 224


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
