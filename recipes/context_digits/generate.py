"""Writes context digits: a class folder of JPEGs and, beside it, the pixel mask of every image.

python -m recipes.context_digits.generate ROOT --count 1000 --seed 0 --split test

ROOT/images/7/test-00017.jpg    ROOT/masks/7/test-00017.png    ROOT/context-digits.json
"""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
from PIL import Image

from recipes.context_digits.scene import SPLITS, digit_rows, render

SETTINGS: Final = "context-digits.json"
VERSION: Final = 1  # of the images: raise it whenever the same seed gives other pixels
JPEG_QUALITY: Final = 92


def generate(root: Path, count: int, *, seed: int, split: str, processes: int = 1) -> list[Path]:
    """Write images 0..count-1 of a split and their masks; returns the image paths in that order.

    The files do not depend on `processes`. Those already there are kept: repeat an interrupted call to finish
    it. Raises ValueError for an unknown split or count < 1, FileExistsError when `root` holds anything else.
    """
    if count < 1:
        raise ValueError(f"{root}: expected count >= 1, found {count}")
    digit_rows(split)
    _claim(root, {"version": VERSION, "seed": seed, "split": split, "count": count})
    write = partial(_write, root, seed, split)
    if processes == 1:
        return [write(index) for index in range(count)]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        return list(pool.map(write, range(count), chunksize=32))


def _claim(root: Path, settings: dict[str, Any]) -> None:
    """Make `root` ours: empty, or begun with the very same settings."""
    path = root / SETTINGS
    found = json.loads(path.read_text()) if path.is_file() else None
    if found is None and root.exists() and any(root.iterdir()):
        raise FileExistsError(f"{root}: expected an empty folder, found other files; name another one")
    if found not in (None, settings):
        raise FileExistsError(f"{path}: expected {settings}, found {found}; name another folder")
    root.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings) + "\n")


def _write(root: Path, seed: int, split: str, index: int) -> Path:
    # `render` gives classes in turn, so the names are known before anything is drawn.
    scene_name = f"{index % 10}/{split}-{index:05d}"
    image, mask = root / "images" / f"{scene_name}.jpg", root / "masks" / f"{scene_name}.png"
    if not image.exists():
        scene = render(seed, split, index)
        _save(scene.mask, mask, compress_level=1)
        _save(scene.image, image, quality=JPEG_QUALITY, subsampling=0)
    return image


def _save(image: Image.Image, path: Path, **options: int) -> None:
    """By rename, so that a file is either whole or not there; the image comes after its mask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    image.save(unfinished, "PNG" if path.suffix == ".png" else "JPEG", **options)
    unfinished.replace(path)


@click.command(help="Write COUNT images and their masks below ROOT.")
@click.argument("root", type=click.Path(file_okay=False, path_type=Path))
@click.option("--count", type=click.IntRange(min=1), default=1000, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--split", type=click.Choice(SPLITS), default="test", show_default=True)
@click.option("--processes", type=click.IntRange(min=1), default=1, show_default=True)
def main(root: Path, count: int, seed: int, split: str, processes: int) -> None:
    """Shell over `generate`."""
    try:
        paths = generate(root, count, seed=seed, split=split, processes=processes)
    except FileExistsError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{len(paths)} images in {root / 'images'}")


if __name__ == "__main__":
    main()
