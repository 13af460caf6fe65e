"""Real photographs under a real ImageNet teacher: where it sees what, and what a mixed image is worth.

python -m recipes.photographs.demo FOLDER

Four photographs of scikit-image (CC0 or public domain, credited in recipes/context_digits/README.md), each in a folder
named by its ImageNet class, and EfficientNet-lite0, whose weights a package of the registry brings: the paper's
Figures 1 and 6 from what is installed. Leaves FOLDER/images, FOLDER/maps and FOLDER/report.png.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Final

import click
from PIL import Image

import extract
from extract import JobOptions, TeacherSpec
from extract.images import list_images
from tokenmix_loader.figures.show import draw_pairs

PHOTOGRAPHS: Final = {
    "chelsea.png": "Egyptian cat",
    "coffee.png": "espresso",
    "rocket.jpg": "missile",
    "camera.png": "tripod",
}
TEACHER: Final = TeacherSpec("efficientnet_lite0", kind="cam", scales=(1.0, 2.0))
SEED: Final = 2  # of the crops in the picture


def write_photographs(root: Path) -> None:
    """One folder per class, named by the class."""
    source = Path(str(resources.files("skimage"))) / "data"  # by path: skimage.data may try to download
    for name, words in PHOTOGRAPHS.items():
        (root / words).mkdir(parents=True, exist_ok=True)
        Image.open(source / name).convert("RGB").save(root / words / f"{Path(name).stem}.jpg", quality=95)


@click.command(help="Run in FOLDER.")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--seed", type=int, default=SEED, show_default=True, help="Of the crops in the picture.")
def main(folder: Path, seed: int) -> None:
    """Extract and draw."""
    images, maps, picture = folder / "images", folder / "maps", folder / "report.png"
    write_photographs(images)
    extract.run(images, maps, TEACHER, JobOptions(decoding_processes=0), say=click.echo)
    draw_pairs(list_images(images), maps, 4, seed).save(picture)
    click.echo(f"look at {picture}")


if __name__ == "__main__":
    main()
