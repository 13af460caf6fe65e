"""All figures of the paper that show something, drawn from scratch: data, maps, two students, six pictures.

    python -m recipes.evaluate.gallery FOLDER

Objects are cut-outs of twelve classes on photographs (`recipes/cut_outs`) under EfficientNet-lite0, or with
`--digits`, which needs nothing but this repository, handwritten digits on photographs under their own teacher. The two
students are small vision transformers, one trained by area as with CutMix, one by TokenMix; trained for minutes, they
show what the figures are made of, not what training for days does. A repeated call draws anew what it finds trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import torch
from timm.data import create_dataset
from torch.utils.data import DataLoader

import extract
from extract import JobOptions, TeacherSpec
from extract.images import list_images
from recipes.context_digits.demo import TEACHER
from recipes.context_digits.generate import generate as generate_digits
from recipes.cut_outs.generate import generate as generate_cut_outs
from recipes.cut_outs.scene import Look
from recipes.cut_outs.stamps import stamp_folder
from recipes.evaluate import attention, confidences, masks, occlusion, salient_area
from recipes.evaluate.batch import whole_images
from recipes.evaluate.drawing import save
from recipes.evaluate.student import Student, load_students
from recipes.small_students import small_vit
from recipes.train import train
from recipes.transfer.cut_outs import write_objects
from tokenmix_loader import MapDataset, MapStore, read_tokens
from tokenmix_loader.show import draw_pairs

LABELS = {"area": "by area", "tokenmix": "TokenMix"}
GRID = 8  # tokens per side of the students
CLASSES = 12
DIGITS = TeacherSpec(
    "test_resnet", checkpoint=TEACHER, num_classes=10, model_args={"output_stride": 8}, input_size=(96, 96),
    crop_mode="squash", crop_pct=1.0, device="cpu",
)  # fmt: skip
CUT_OUTS = TeacherSpec("efficientnet_lite0", kind="cam", scales=(1.0, 2.0), device="cpu")


class Scene(NamedTuple):
    """Images, pixel masks and maps of one split."""

    images: Path
    masks: Path
    maps: Path


def prepare(folder: Path, split: str, count: int, digits: bool) -> Scene:
    """Generate and extract; what is there is used again."""
    root = folder / split
    if digits:
        generate_digits(root, count, seed=0, split=split)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        look = Look(stamp_folder(), write_objects(folder / "objects.json", CLASSES))
        generate_cut_outs(root, count, seed=0, split=split, look=look)
    scene = Scene(root / "images", root / "masks", folder / f"maps-{split}")
    extract.run(scene.images, scene.maps, DIGITS if digits else CUT_OUTS, JobOptions(decoding_processes=0))
    return scene


def train_students(folder: Path, scene: Scene, num_classes: int, epochs: int) -> list[Student]:
    """One by area, one by TokenMix."""
    weights = [folder / f"{supervision}.pt" for supervision in LABELS]
    for path in weights:
        if not path.is_file():
            options = f"--model small_vit --num-classes {num_classes} --epochs {epochs} --batch-size 100 --lr 2e-3"
            arguments = [*options.split(), "--workers", "0", "--supervision", path.stem, "--out", str(path)]
            train.main([str(scene.images), str(scene.maps), *arguments], standalone_mode=False)
    students = load_students(small_vit.__name__, weights, (), num_classes, None, None, None)
    return [student._replace(label=LABELS[student.label]) for student in students]


def draw_all(students: list[Student], scene: Scene, names: Sequence[str], seed: int, out: Path) -> None:
    """The figures of the paper that need images, one file each; `scene` is of the test."""
    listed, store = list_images(scene.images), MapStore(scene.maps)
    rows = attention.choose(listed.labels, 3, np.random.default_rng(seed))
    images, labels = attention.decoded(listed, rows), [int(listed.labels[row]) for row in rows]
    save(attention.draw(students, images), out / "figure-3-attention.png")
    shares = (0, 0.25, 0.5, 0.75)
    bars = confidences.draw(students, images, labels, names, GRID, shares, np.random.default_rng(seed))
    save(bars, out / "figure-4-confidences.png")
    steps = np.linspace(0, 1, 9).tolist()
    curves = {one.label: curves_of(one, scene, store, steps, seed) for one in students}
    save(occlusion.draw(steps, curves, len(listed)), out / "figure-5-occlusion.png")
    draw_pairs(listed, scene.maps, 3, seed).save(out / "figure-6-targets.png")
    pixels, targets, keys, _ = whole_images(scene.images, store, 6, np.random.default_rng(seed))
    save(masks.draw(pixels, targets, store, names, 14, seed), out / "figure-7-masks.png")
    tokens = read_tokens(store, targets, (salient_area.CELLS, salient_area.CELLS), "contrast")
    true = [salient_area.read_mask(scene.masks / f"{Path(key).with_suffix('')}.png") for key in keys]
    said = [names[int(label)] for label in targets.label]
    save(salient_area.draw(pixels, tokens, true, said), out / "figure-8-salient-area.png")


def curves_of(student: Student, scene: Scene, store: MapStore, steps: list[float], seed: int) -> occlusion.Curves:
    """Of the occlusion."""
    dataset = MapDataset(create_dataset("", str(scene.images)), store, student.transform)
    loader = DataLoader(dataset, 100)
    return occlusion.evaluate(student, loader, store, GRID, steps, np.random.default_rng(seed))


@click.command(help="Draw the gallery in FOLDER.")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--digits", is_flag=True, help="Digits in the place of cut-outs.")
@click.option("--count", type=click.IntRange(min=100), default=1500, show_default=True, help="Images for training.")
@click.option("--epochs", type=click.IntRange(min=1), default=60, show_default=True, help="Of each student.")
@click.option("--seed", default=0, show_default=True, help="Of the images that are shown.")
def main(folder: Path, digits: bool, count: int, epochs: int, seed: int) -> None:
    """Prepare, train, draw."""
    torch.set_num_threads(2)
    try:
        scenes = [prepare(folder, split, number, digits) for split, number in (("train", count), ("test", 400))]
    except OSError as error:
        raise click.ClickException(str(error)) from error
    names = list_images(scenes[1].images).class_names
    students = train_students(folder, scenes[0], len(names), epochs)
    draw_all(students, scenes[1], names, seed, folder)
    click.echo(f"{folder}: six figures, figure-3 to figure-8")


if __name__ == "__main__":
    main()
