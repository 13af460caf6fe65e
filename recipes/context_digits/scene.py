"""One image of context digits: a handwritten digit on a random piece of a real photograph.

Everything comes out of installed wheels (scikit-learn's `load_digits`, scikit-image's bundled photographs);
nothing is downloaded. README.md beside this file gives the credit and licence of every photograph.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

NUM_CLASSES: Final = 10
SPLITS: Final = ("train", "test")
HELD_OUT_EVERY: Final = 5  # every fifth of the 1,797 handwritten digits appears in the test split only

# Public domain or CC0 by their own documentation; photographs without such a statement are left out.
PHOTOGRAPHS: Final = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "retina.jpg",
    "rocket.jpg",
)
PHOTOGRAPH_SIDE_PX: Final = 640  # larger ones are reduced once, so that no single one costs most of the time

SHORT_SIDE_PX: Final = (120, 260)
LONGEST_ASPECT: Final = 1.8
DIGIT_SHARE: Final = (0.2, 0.6)  # side of the digit's box over the image's shorter side
ROTATION_DEG: Final = 25.0  # 6 and 9 stay distinct
COLOUR_TRIES: Final = 16
LEAST_CONTRAST: Final = 60.0  # RGB distance that nine tenths of the stroke must have from what is behind it


@dataclass(frozen=True)
class Scene:
    """RGB image and background, and the stroke's opacity as an L mask: where it is 0 the two are equal."""

    label: int
    image: Image.Image
    background: Image.Image
    mask: Image.Image


class Sources(NamedTuple):
    """Photographs, and for every class the handwritten digits (8 x 8, 0..16) of one split."""

    photographs: tuple[Image.Image, ...]
    digits: tuple[npt.NDArray[np.float64], ...]


def digit_rows(split: str) -> npt.NDArray[np.int64]:
    """Rows of `load_digits` that belong to a split; the two splits are disjoint and cover all rows."""
    if split not in SPLITS:
        raise ValueError(f"context digits: expected split to be one of {SPLITS}, found {split!r}")
    held_out = np.arange(len(_handwritten()[1])) % HELD_OUT_EVERY == 0
    return np.flatnonzero(held_out == (split == "test"))


@cache
def sources(split: str) -> Sources:
    """Photographs and digits of a split, read once per process."""
    rows = digit_rows(split)
    images, labels = _handwritten()
    digits = tuple(images[rows[labels[rows] == label]] for label in range(NUM_CLASSES))
    return Sources(read_photographs(PHOTOGRAPHS), digits)


def render(seed: int, split: str, index: int) -> Scene:
    """Image `index` of a split: a function of (seed, split, index) alone; classes take turns."""
    photographs, digits = sources(split)
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    label = index % NUM_CLASSES
    photograph = photographs[rng.integers(len(photographs))]
    background = random_crop(rng, photograph, random_size(rng, SHORT_SIDE_PX))
    digit = _stroke(rng, digits[label][rng.integers(len(digits[label]))], min(background.size))
    free = np.subtract(background.size, digit.size)
    left, top = rng.integers(free + 1).tolist()
    mask = Image.new("L", background.size)
    mask.paste(digit, (left, top))
    image = background.copy()
    image.paste(_colour(rng, background, mask), (0, 0), mask)
    return Scene(label, image, background, mask)


@cache
def _handwritten() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images, bunch.target


@cache
def read_photographs(names: tuple[str, ...]) -> tuple[Image.Image, ...]:
    """Photographs bundled with scikit-image, RGB, at most PHOTOGRAPH_SIDE_PX wide and high."""
    folder = Path(str(resources.files("skimage"))) / "data"  # by path: skimage.data may try to download
    return tuple(_photograph(folder / name) for name in names)


def _photograph(path: Path) -> Image.Image:
    image = Image.open(path).convert("RGB")
    image.thumbnail((PHOTOGRAPH_SIDE_PX, PHOTOGRAPH_SIDE_PX), Image.Resampling.LANCZOS)
    return image


def random_crop(rng: np.random.Generator, photograph: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A random crop, enlarged or reduced to `size` (width, height), with random flip, brightness and tint."""
    fit = min(whole / part for whole, part in zip(photograph.size, size, strict=True))
    zoom = math.sqrt(rng.uniform(0.15, 1.0))
    width, height = (side * fit * zoom for side in size)
    left, top = rng.uniform(0, photograph.width - width), rng.uniform(0, photograph.height - height)
    crop = photograph.resize(size, Image.Resampling.BILINEAR, (left, top, left + width, top + height))
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    gain = rng.uniform(0.6, 1.3) * rng.uniform(0.85, 1.15, 3)
    table = np.clip(gain[:, None] * np.arange(256), 0, 255).astype(np.uint8)
    return crop.point(table.ravel().tolist())


def random_size(rng: np.random.Generator, short_side_px: tuple[int, int]) -> tuple[int, int]:
    """Width and height of a square, landscape or portrait image with a shorter side between the two given."""
    short = int(rng.integers(short_side_px[0], short_side_px[1] + 1))
    long = round(short * math.exp(rng.uniform(0, math.log(LONGEST_ASPECT))))
    return ((short, short), (long, short), (short, long))[rng.integers(3)]


def _stroke(rng: np.random.Generator, digit: npt.NDArray[np.float64], short_side_px: int) -> Image.Image:
    """The digit's opacity, enlarged smoothly, rotated and cut to its bounding box."""
    side = round(short_side_px * rng.uniform(*DIGIT_SHARE))
    # One empty cell around it, so that strokes that touch the border round off instead of being cut.
    cells = np.pad((digit * (255 / 16)).astype(np.uint8), 1)
    grown = Image.fromarray(cells).resize((side * 10 // 8,) * 2, Image.Resampling.BICUBIC)
    turned = grown.rotate(rng.uniform(-ROTATION_DEG, ROTATION_DEG), Image.Resampling.BICUBIC, expand=True)
    sharp = turned.point([round(255 * min(max((level - 80) / 80, 0), 1)) for level in range(256)])
    return sharp.crop(sharp.getbbox())


def _colour(rng: np.random.Generator, background: Image.Image, mask: Image.Image) -> tuple[int, int, int]:
    """The first random colour that nearly all of the stroke stands out in; else the best of them."""
    behind = np.asarray(background, np.float32)[np.asarray(mask) > 127]
    behind = behind[:: max(1, len(behind) // 256)]
    colours = rng.integers(0, 256, (COLOUR_TRIES, 3))
    distance = np.linalg.norm(colours[:, None] - behind[None], axis=-1)
    contrast = np.quantile(distance, 0.1, axis=1)
    visible = contrast >= LEAST_CONTRAST
    red, green, blue = colours[int(visible.argmax() if visible.any() else contrast.argmax())].tolist()
    return red, green, blue
