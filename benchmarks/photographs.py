"""JPEGs like ImageNet's for the benchmarks, cut from the photographs that the demo's packages bring along."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

PHOTOGRAPHS = {
    "skimage": ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg"),
    "sklearn.datasets": ("china.jpg", "flower.jpg"),
}
FOLDERS = {"skimage": "data", "sklearn.datasets": "images"}
SIZE = (500, 375)  # ImageNet's most frequent one, width x height
QUALITY = 95


def write_photographs(
    folder: Path, count: int, classes: int = 10, size: tuple[int, int] = SIZE, different: int = 200
) -> list[Path]:
    """`count` JPEGs of random crops, mirrored at random, in class folders `0` ...; always the same ones.

    Only the first `different` are drawn, the others are links to them.
    """
    rng = np.random.default_rng(0)
    photographs = [Image.open(path).convert("RGB") for path in _paths()]
    written: list[Path] = []
    for i in range(count):
        path = folder / f"{i % classes}" / f"{i:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if i < different:
            _crop(rng, photographs[i % len(photographs)], size).save(path, quality=QUALITY)
        else:
            path.hardlink_to(written[i % different])
        written.append(path)
    return written


def _paths() -> Iterator[Path]:
    for package, names in PHOTOGRAPHS.items():
        yield from (Path(str(resources.files(package))) / FOLDERS[package] / name for name in names)


def _crop(rng: np.random.Generator, photograph: Image.Image, size: tuple[int, int]) -> Image.Image:
    fit = min(whole / part for whole, part in zip(photograph.size, size, strict=True)) * rng.uniform(0.7, 1.0)
    width, height = (fit * side for side in size)
    left, top = rng.uniform(0, photograph.width - width), rng.uniform(0, photograph.height - height)
    crop = photograph.resize(size, Image.Resampling.BICUBIC, (left, top, left + width, top + height))
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else crop
