"""Writes cut-outs: a class folder of JPEGs named by ImageNet class and, beside it, the pixel mask of every image.

python -m recipes.cut_outs.generate ROOT --count 1000 --seed 0 --split test

ROOT/images/n02129165/test-00028.jpg    ROOT/masks/n02129165/test-00028.png    ROOT/cut-outs.json
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
from timm.data import ImageNetInfo

from recipes.context_digits.scene import SPLITS
from recipes.cut_outs.scene import Look, objects, photographs, render
from recipes.cut_outs.stamps import OBJECTS, stamp_folder
from recipes.image_folder import claim, save, write_all

SETTINGS: Final = "cut-outs.json"
VERSION: Final = 1  # of the images: raise it whenever the same seed gives other pixels
JPEG_QUALITY: Final = 92
NAMINGS: Final = ("wordnet", "index")


def generate(
    root: Path, count: int, *, seed: int, split: str, look: Look, naming: str = "wordnet", processes: int = 1
) -> list[Path]:
    """Write images 0..count-1 of a split and their masks; returns the image paths in that order.

    `naming`: class folders by WordNet id (n02129165) or by ImageNet-1k index (0291). The files do not depend on
    `processes`. Those already there are kept: repeat an interrupted call to finish it. Raises ValueError for an
    unknown split or naming and count < 1, FileExistsError when `root` holds anything else, FileNotFoundError for a
    missing stamp.
    """
    if count < 1:
        raise ValueError(f"{root}: expected count >= 1, found {count}")
    photographs(split)
    folders = class_folders(look, naming)
    drawn: dict[str, Any] = {"object_share": list(look.object_share), "short_side_px": list(look.short_side_px)}
    drawn["naming"] = naming
    if look.objects != OBJECTS:
        drawn["objects"] = hashlib.sha256(look.objects.read_bytes()).hexdigest()[:16]
    claim(root, SETTINGS, {"version": VERSION, "seed": seed, "split": split, "count": count} | drawn)
    return write_all(partial(_write, root, look, folders, seed, split), count, processes)


def class_folders(look: Look, naming: str) -> tuple[str, ...]:
    """The class folder of every object, in the order in which they take turns."""
    if naming not in NAMINGS:
        raise ValueError(f"cut-outs: expected naming to be one of {NAMINGS}, found {naming!r}")
    labels = [stamp.label for stamp in objects(look.objects) if stamp.label is not None]
    if naming == "index":
        return tuple(f"{label:04d}" for label in labels)
    imagenet = ImageNetInfo()
    return tuple(imagenet.index_to_label_name(label) for label in labels)


def _write(root: Path, look: Look, folders: tuple[str, ...], seed: int, split: str, index: int) -> Path:
    # Objects take turns, so the names are known before anything is drawn.
    name = f"{folders[index % len(folders)]}/{split}-{index:05d}"
    image, mask = root / "images" / f"{name}.jpg", root / "masks" / f"{name}.png"
    if not image.exists():
        scene = render(look, seed, split, index)
        save(scene.mask, mask, compress_level=1)  # before the image, which says that both are there
        save(scene.image, image, quality=JPEG_QUALITY, subsampling=0)
    return image


@click.command(help="Write COUNT images and their masks below ROOT.")
@click.argument("root", type=click.Path(file_okay=False, path_type=Path))
@click.option("--count", type=click.IntRange(min=1), default=1000, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--split", type=click.Choice(SPLITS), default="test", show_default=True)
@click.option("--stamps", type=click.Path(file_okay=False, path_type=Path), help="Folder of the stamps.")
@click.option("--naming", type=click.Choice(NAMINGS), default="wordnet", show_default=True, help="Of class folders.")
@click.option(
    "--object-share", type=(float, float), default=(0.3, 0.75), show_default=True, help="Of the image's side."
)
@click.option("--short-side", type=(int, int), default=(160, 320), show_default=True, help="Of the image, pixels.")
@click.option("--processes", type=click.IntRange(min=1), default=1, show_default=True)
def main(
    root: Path,
    count: int,
    seed: int,
    split: str,
    stamps: Path | None,
    naming: str,
    object_share: tuple[float, float],
    short_side: tuple[int, int],
    processes: int,
) -> None:
    """Shell over `generate`."""
    try:
        look = Look(stamp_folder(stamps), object_share=object_share, short_side_px=short_side)
        paths = generate(root, count, seed=seed, split=split, look=look, naming=naming, processes=processes)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{len(paths)} images in {root / 'images'}")


if __name__ == "__main__":
    main()
