"""Writes context digits: a class folder of JPEGs and, beside it, the pixel mask of every image.

python -m recipes.context_digits.generate ROOT --count 1000 --seed 0 --split test

ROOT/images/7/test-00017.jpg    ROOT/masks/7/test-00017.png    ROOT/context-digits.json
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

import click

from recipes.context_digits.scene import SPLITS, digit_rows, render
from recipes.image_folder import claim, save, write_all

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
    claim(root, SETTINGS, {"version": VERSION, "seed": seed, "split": split, "count": count})
    return write_all(partial(_write, root, seed, split), count, processes)


def _write(root: Path, seed: int, split: str, index: int) -> Path:
    # `render` gives classes in turn, so the names are known before anything is drawn.
    scene_name = f"{index % 10}/{split}-{index:05d}"
    image, mask = root / "images" / f"{scene_name}.jpg", root / "masks" / f"{scene_name}.png"
    if not image.exists():
        scene = render(seed, split, index)
        save(scene.mask, mask, compress_level=1)  # before the image, which says that both are there
        save(scene.image, image, quality=JPEG_QUALITY, subsampling=0)
    return image


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
