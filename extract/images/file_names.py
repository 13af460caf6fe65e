"""What the names of files say: in which order they come, and which of them are images."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from timm.data.readers.img_extensions import get_img_extensions
from torchvision.datasets.folder import IMG_EXTENSIONS

from extract.errors import ImagesError

# What torchvision's ImageFolder and timm's datasets load.
IMAGE_SUFFIXES = tuple(dict.fromkeys([*get_img_extensions(), *IMG_EXTENSIONS]))
# Stores whose header does not say by which suffixes their images were found, found them by these.
FIRST_SUFFIXES = (".png", ".jpg", ".jpeg")


def natural_order(name: str) -> tuple[list[Any], str]:
    """timm's sort key, `natural_key`, in which 10 is behind 9, and behind it the name itself.

    timm's alone takes a and A, 1 and 01 for equal; then the order is that in which a file system lists them.
    """
    parts: list[Any] = re.split(r"(\d+)", name.lower())
    parts[1::2] = map(int, parts[1::2])
    return parts, name


def refuse_tied_classes(root: Path, names: Sequence[str]) -> None:
    """Raise ImagesError for names, in natural order, that timm takes for equal: it would number them by chance."""
    for one, other in pairwise(names):
        if natural_order(one)[0] == natural_order(other)[0]:
            raise ImagesError(
                f"{root}: expected classes in one order, found {one!r} and {other!r}, which timm's order, without "
                "capitals and leading zeros, takes for equal: a training would number them by chance; rename one"
            )


def parse_suffixes(text: str) -> tuple[str, ...]:
    """`jpg;.PNG`, as timm's --input-key has them -> (".jpg", ".png"); ImagesError where none is given."""
    suffixes = ["." + part.strip().lower().removeprefix(".") for part in text.split(";") if part.strip(" .")]
    if not suffixes:
        raise ImagesError(f"--input-key {text!r}: expected suffixes of images, as jpg;png, found none")
    odd = next((suffix for suffix in suffixes if re.search(r"[\s,*?/|]", suffix)), None)
    if odd is not None:
        raise ImagesError(f"--input-key {text!r}: expected suffixes with semicolons between, as jpg;png, found {odd!r}")
    return tuple(dict.fromkeys(suffixes))


def spell_suffixes(suffixes: Iterable[str]) -> str:
    """As `parse_suffixes` reads them."""
    return ";".join(suffix.removeprefix(".") for suffix in suffixes)


LINKS = "links"  # how `LeftOut` counts them


class LeftOut:
    """Files that are not taken for images, counted by suffix."""

    def __init__(self, suffixes: Sequence[str]):
        self._suffixes = suffixes
        self._counts: Counter[str] = Counter()
        self._example = ""

    def add(self, name: str, suffix: str | None = None) -> None:
        """`suffix`: default, that of the name."""
        self._counts[Path(name).suffix.lower() if suffix is None else suffix] += 1
        self._example = min(self._example or name, name)

    def has(self, suffix: str) -> bool:
        """Whether there is a file of this suffix."""
        return suffix in self._counts

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self._counts)

    def __str__(self) -> str:
        """What there is beside the images, with an example."""
        if not self:
            return "nothing"
        common = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))
        kinds = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in common[:5])
        return f"{kinds}{', ...' if common[5:] else ''}, such as {self._example!r}"

    def line(self) -> str:
        """For the user: what is left out, and how it is taken in; empty where nothing is."""
        if not self:
            return ""
        links = "" if LINKS not in self._counts else "; re-create the tar with --dereference --hard-dereference"
        if self._counts.keys() == {LINKS}:
            return f"left out: {self}, which have no bytes in a tar{links}"
        return (
            f"left out: {self}; to take more in, name all suffixes of images, those of now and others: "
            f"--input-key '{spell_suffixes(self._suffixes)}'{links}"
        )
