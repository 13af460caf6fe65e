"""The objects: photographic cut-outs with alpha from Debian's package tuxpaint-stamps-default.

Nothing of the package is stored here. objects.json says which stamps are used and which ImageNet-1k class each shows.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image

PACKAGE: Final = "tuxpaint-stamps-default"
ENVIRONMENT_VARIABLE: Final = "TUXPAINT_STAMPS"
DEFAULT_FOLDER: Final = Path("/usr/share/tuxpaint/stamps")
OBJECTS: Final = Path(__file__).with_name("objects.json")


@dataclass(frozen=True)
class Stamp:
    """File below the folder of stamps, without `.png`, and the ImageNet-1k indices that it may mean.

    `label` is the first of these indices that a teacher confirms (see `choose_labels`); None: none of them.
    """

    name: str
    may_mean: tuple[int, ...]
    label: int | None


def listed_stamps(path: Path = OBJECTS) -> tuple[Stamp, ...]:
    """All stamps of objects.json, with and without a label."""
    entries = json.loads(path.read_text())["stamps"]
    return tuple(Stamp(name, tuple(entry["may_mean"]), entry["label"]) for name, entry in entries.items())


def stamp_folder(folder: Path | None = None) -> Path:
    """`folder`, else the one that TUXPAINT_STAMPS names, else Debian's. Raises FileNotFoundError if it is not there."""
    chosen = folder or Path(os.environ.get(ENVIRONMENT_VARIABLE) or DEFAULT_FOLDER)
    if not chosen.is_dir():
        raise FileNotFoundError(
            f"{chosen}: expected the stamps of Debian's package {PACKAGE}, found no folder. As root: "
            f"apt-get install {PACKAGE}. Otherwise: apt-get download {PACKAGE} && dpkg-deb -x {PACKAGE}_*.deb DIR, "
            f"then set {ENVIRONMENT_VARIABLE} (or --stamps) to DIR{DEFAULT_FOLDER}"
        )
    return chosen


def read_cut_out(folder: Path, name: str) -> Image.Image:
    """A stamp as RGBA, cut to the box of what is not transparent. Raises FileNotFoundError for a missing stamp."""
    path = folder / f"{name}.png"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a stamp of {PACKAGE} 2022.06.04, found none; install that version")
    image = Image.open(path).convert("RGBA")
    return image.crop(image.getchannel("A").getbbox())
