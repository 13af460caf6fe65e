"""One image: a cut-out on a random piece of a photograph, and the cut-out's opacity as the mask."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from recipes.context_digits.scene import PHOTOGRAPHS, SPLITS, random_crop, random_size, read_photographs
from recipes.cut_outs.stamps import OBJECTS, Stamp, listed_stamps, read_cut_out

HELD_OUT_PHOTOGRAPHS: Final = PHOTOGRAPHS[1::2]  # of the test split; the train split has the others
ROTATION_DEG: Final = 10.0
GAIN: Final = (0.75, 1.25)  # brightness of the object


@dataclass(frozen=True)
class Look:
    """What is drawn: where the stamps are, size of the images and of the objects in them.

    `object_share`: width of the object's box over that of the image, or height over height, whichever is more.
    """

    stamps: Path
    objects: Path = OBJECTS
    object_share: tuple[float, float] = (0.3, 0.75)
    short_side_px: tuple[int, int] = (160, 320)

    def __post_init__(self) -> None:
        """Refuse ranges that cannot be."""
        (least, most), (shortest, longest) = self.object_share, self.short_side_px
        if not 0 < least <= most <= 1:
            raise ValueError(f"cut-outs: expected an object's share 0 < least <= most <= 1, found {self.object_share}")
        if not 16 <= shortest <= longest:
            raise ValueError(f"cut-outs: expected a side of 16 px <= least <= most, found {self.short_side_px}")


@dataclass(frozen=True)
class Scene:
    """RGB image and background, and the object's opacity as an L mask: where it is 0 the two are equal."""

    image: Image.Image
    background: Image.Image
    mask: Image.Image


@cache
def objects(path: Path = OBJECTS) -> tuple[Stamp, ...]:
    """The stamps that are drawn: those with a label. They take turns."""
    return tuple(stamp for stamp in listed_stamps(path) if stamp.label is not None)


def write_objects(path: Path, classes: int) -> Path:
    """A list of objects of so many classes, one of each, taken evenly from the recipe's."""
    first = {stamp.label: stamp for stamp in reversed(objects()) if stamp.label is not None}
    chosen = [first[label] for label in sorted(first)][:: len(first) // classes][:classes]
    entries = {stamp.name: {"may_mean": stamp.may_mean, "label": stamp.label} for stamp in chosen}
    path.write_text(json.dumps({"stamps": entries}))
    return path


def photographs(split: str) -> tuple[str, ...]:
    """Names of the background photographs of a split; the two splits share none."""
    if split not in SPLITS:
        raise ValueError(f"cut-outs: expected split to be one of {SPLITS}, found {split!r}")
    return tuple(name for name in PHOTOGRAPHS if (name in HELD_OUT_PHOTOGRAPHS) == (split == "test"))


def render(look: Look, seed: int, split: str, index: int) -> Scene:
    """Image `index` of a split: a function of the arguments alone."""
    backgrounds, stamps = read_photographs(photographs(split)), objects(look.objects)
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    size = random_size(rng, look.short_side_px)
    background = random_crop(rng, backgrounds[rng.integers(len(backgrounds))], size)
    cut_out = _cut_out(look.stamps, stamps[index % len(stamps)].name)
    share = rng.uniform(*look.object_share)
    drawn = _vary(rng, cut_out, (share * size[0], share * size[1]))
    left, top = rng.integers(np.subtract(size, drawn.size) + 1).tolist()
    mask, image = Image.new("L", size), background.copy()
    mask.paste(drawn.getchannel("A"), (left, top))
    image.paste(drawn.convert("RGB"), (left, top), drawn.getchannel("A"))
    return Scene(image, background, mask)


def background_of(look: Look, seed: int, split: str, index: int) -> str:
    """Name of the photograph behind the object of `render` with the same arguments."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    random_size(rng, look.short_side_px)  # drawn first
    names = photographs(split)
    return names[rng.integers(len(names))]


@cache
def _cut_out(folder: Path, name: str) -> Image.Image:
    return read_cut_out(folder, name)


def _vary(rng: np.random.Generator, cut_out: Image.Image, most_px: tuple[float, float]) -> Image.Image:
    """Flipped by chance, turned a little, brighter or darker; its box is as large as `most_px` has room for."""
    if rng.random() < 0.5:
        cut_out = cut_out.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    turned = cut_out.rotate(rng.uniform(-ROTATION_DEG, ROTATION_DEG), Image.Resampling.BICUBIC, expand=True)
    turned = turned.crop(turned.getchannel("A").getbbox())
    zoom = min(most / side for most, side in zip(most_px, turned.size, strict=True))
    width, height = (max(1, round(side * zoom)) for side in turned.size)
    scaled = turned.resize((width, height), Image.Resampling.LANCZOS)
    gain = rng.uniform(*GAIN)
    brighter = [min(round(level * gain), 255) for level in range(256)]
    return scaled.point([*brighter * 3, *range(256)])
