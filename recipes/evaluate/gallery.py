"""All figures of the paper that show something, drawn from scratch: data, maps, two students, pictures.

    python -m recipes.evaluate.gallery FOLDER

FOLDER/photographs: four photographs that may be passed on, under EfficientNet-lite with ImageNet weights (Figures 4, 6
and 7). FOLDER/cut-outs: objects of twelve classes on photographs (`recipes/cut_outs`, needs its package) and two small
vision transformers, one trained by area as with CutMix, one by TokenMix (Figures 3 to 8); trained for minutes, they
show what the figures are made of, not what training for days does. A repeated call draws anew what it finds trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import timm
import torch
from timm.data import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    ImageNetInfo,
    create_dataset,
    create_transform,
    resolve_data_config,
)
from torch.utils.data import DataLoader
from torchvision import transforms as tv

import extract
from extract import JobOptions, TeacherSpec
from extract.images import list_images
from extract.teacher.packaged import load_packaged, timm_name
from recipes.cut_outs.generate import generate
from recipes.cut_outs.scene import Look, write_objects
from recipes.cut_outs.stamps import stamp_folder
from recipes.evaluate import attention, confidences, masks, occlusion, salient_area
from recipes.evaluate.batch import choose, decoded, whole_images
from recipes.evaluate.drawing import save
from recipes.evaluate.student import Student, load_students
from recipes.photographs import demo as photographs
from recipes.small_students import small_vit
from tokenmix_loader import MapDataset, MapStore, TokenMix, read_tokens
from tokenmix_loader.figures.show import draw_pairs

LABELS = {"area": "by area", "tokenmix": "TokenMix"}
SIDE_PX, GRID = 64, 8  # of the students: input and tokens per side
BATCH, LR = 50, 1e-3
CLASSES = 12
SHARES = (0, 0.25, 0.5, 0.75)  # of tokens that are dropped in Figure 4
CUT_OUTS = TeacherSpec("efficientnet_lite0", kind="cam", scales=(1.0, 2.0), device="cpu")


class Scene(NamedTuple):
    """Images, pixel masks and maps of one split."""

    images: Path
    masks: Path
    maps: Path


def prepare(folder: Path, split: str, count: int) -> Scene:
    """Generate and extract; what is there is used again."""
    root = folder / split
    folder.mkdir(parents=True, exist_ok=True)
    look = Look(stamp_folder(), write_objects(folder / "objects.json", CLASSES))
    generate(root, count, seed=0, split=split, look=look)
    scene = Scene(root / "images", root / "masks", folder / f"maps-{split}")
    extract.run(scene.images, scene.maps, CUT_OUTS, JobOptions(decoding_processes=0))
    return scene


def train_students(folder: Path, scene: Scene, num_classes: int, epochs: int) -> list[Student]:
    """One by area, one by TokenMix; otherwise the same: weights at start, order of the images, crops."""
    weights = [folder / f"{supervision}.pt" for supervision in LABELS]
    for path in weights:
        if not path.is_file():
            torch.save(trained(scene, num_classes, epochs, path.stem).state_dict(), path)
    students = load_students(small_vit.__name__, weights, (), num_classes, None, None, None)
    return [student._replace(label=LABELS[student.label]) for student in students]


def crops() -> tv.Compose:
    """As small students need them: gentler than DeiT's."""
    crop = tv.RandomResizedCrop(SIDE_PX, scale=(0.35, 1.0))
    normalise = tv.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    return tv.Compose([crop, tv.RandomHorizontalFlip(), tv.ToTensor(), normalise])


def trained(scene: Scene, num_classes: int, epochs: int, supervision: str) -> torch.nn.Module:
    """The plain loop of docs/loops.md with crops, flips and half of the batches mixed."""
    torch.manual_seed(0)
    model = timm.create_model(small_vit.__name__, num_classes=num_classes)
    dataset = MapDataset(create_dataset("", str(scene.images)), scene.maps, crops())
    order = torch.Generator().manual_seed(0)
    loader = DataLoader(dataset, BATCH, shuffle=True, drop_last=True, generator=order, num_workers=1)
    mix = TokenMix(
        scene.maps, num_classes, (GRID, GRID), rng=np.random.default_rng(0), supervision=supervision, prob=0.5,
        min_tokens=5, per="sample", mixup_alpha=0.0,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.05)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=epochs * len(loader))
    for epoch in range(epochs):
        total = 0.0
        for images, targets in loader:
            images, dense = mix(images, targets)
            loss = torch.nn.functional.cross_entropy(model(images), dense)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            rate.step()
            total += float(loss.detach())
        click.echo(f"{LABELS[supervision]}, epoch {epoch + 1} of {epochs}: loss {total / len(loader):.3f}")
    return model  # type: ignore[no-any-return]


def draw_photographs(folder: Path, seed: int) -> None:
    """Figures 4, 6 and 7: two networks of ImageNet and the maps of one."""
    images, maps = folder / "images", folder / "maps"
    photographs.write_photographs(images)
    extract.run(images, maps, photographs.TEACHER, JobOptions(decoding_processes=0))
    listed, store = list_images(images), MapStore(maps)
    names, shown = imagenet_names(), [*range(0, len(listed), 2)]
    labels = [names.index(listed.class_names[listed.labels[row]]) for row in shown]
    networks = [imagenet_network(f"efficientnet_lite{size}") for size in (0, 2)]
    pictures, rng = decoded(listed, shown), np.random.default_rng(seed)
    save(confidences.draw(networks, pictures, labels, names, 14, SHARES, rng), folder / "figure-4-confidences.png")
    draw_pairs(listed, maps, 3, seed).save(folder / "figure-6-targets.png")
    pixels, targets, _, words = whole_images(images, store, len(listed), np.random.default_rng(seed))
    save(masks.draw(pixels, targets, store, words, 14, seed), folder / "figure-7-masks.png")


def imagenet_names() -> list[str]:
    """Of the 1,000 classes, the first word or words of each."""
    labels = ImageNetInfo()
    return [labels.index_to_description(index).partition(",")[0] for index in range(labels.num_classes())]


def imagenet_network(name: str) -> Student:
    """With the weights of its registry package."""
    model = timm.create_model(timm_name(name)).eval()
    load_packaged(model, name)
    config = {"input_size": (3, 224, 224), "crop_mode": "squash", "crop_pct": 1.0}
    transform = create_transform(**resolve_data_config(config, model=model), is_training=False)
    return Student(name, model, transform, torch.device("cpu"))


def draw_cut_outs(students: list[Student], scene: Scene, seed: int, out: Path) -> None:
    """All that need students and masks; `scene` is of the test."""
    listed, store = list_images(scene.images), MapStore(scene.maps)
    imagenet, rows = ImageNetInfo(), choose(listed.labels, 3, np.random.default_rng(seed))
    names = [imagenet.label_name_to_description(name).partition(",")[0] for name in listed.class_names]
    pictures, labels = decoded(listed, rows), [int(listed.labels[row]) for row in rows]
    save(attention.draw(students, pictures), out / "figure-3-attention.png")
    rng = np.random.default_rng(seed)
    save(confidences.draw(students, pictures, labels, names, GRID, SHARES, rng), out / "figure-4-confidences.png")
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
@click.option("--count", type=click.IntRange(min=100), default=1500, show_default=True, help="Images for training.")
@click.option("--epochs", type=click.IntRange(min=1), default=40, show_default=True, help="Of each student.")
@click.option("--seed", default=2, show_default=True, help="Of the images that are shown.")
def main(folder: Path, count: int, epochs: int, seed: int) -> None:
    """Prepare, train, draw."""
    draw_photographs(folder / "photographs", seed)
    out = folder / "cut-outs"
    try:
        scenes = [prepare(out, split, number) for split, number in (("train", count), ("test", 400))]
    except OSError as error:
        raise click.ClickException(f"{error}; the photographs are drawn, in {folder / 'photographs'}") from error
    draw_cut_outs(train_students(out, scenes[0], CLASSES, epochs), scenes[1], seed, out)
    click.echo(f"{folder}: figures 3 to 8")


if __name__ == "__main__":
    main()
