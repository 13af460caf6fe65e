"""What students say of an image while its tokens disappear (TokenMix, Fig. 4): classes and confidences, as bars.

    python -m recipes.evaluate.confidences IMAGES --checkpoint cutmix.pt --checkpoint tokenmix.pt --count 3

The same tokens are dropped for every student. The label's own class is drawn dark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from extract.images import list_images
from recipes.evaluate.batch import choose, decoded
from recipes.evaluate.drawing import COLOURS, grid_of, picture, save, shown
from recipes.evaluate.occlusion import mask_tokens, orders
from recipes.evaluate.student import Student, load_students, mistakes_as_messages, student_options, tokens_per_side

FIRST = 3  # classes that are named


class Answer(NamedTuple):
    """The likeliest classes and their probabilities, best first."""

    classes: list[int]
    probabilities: list[float]


@torch.inference_mode()
def answers(student: Student, pixels: torch.Tensor) -> list[Answer]:
    """One for each image [B, 3, H, W]."""
    probabilities, classes = student.model(pixels.to(student.device)).softmax(1).topk(FIRST)
    return [Answer(*pair) for pair in zip(classes.tolist(), probabilities.tolist(), strict=True)]


def draw(
    students: Sequence[Student], images: Sequence[Image.Image], labels: Sequence[int], names: Sequence[str],
    grid: int, shares: Sequence[float], rng: np.random.Generator,
) -> Figure:  # fmt: skip
    """Two rows per image: what is left of it at each share of dropped tokens, and what the students make of that.

    `names`: of the students' classes, in which `labels` count.
    """
    figure, axes = grid_of(2 * len(images), len(shares), 2.2)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        ((_, places),) = orders(rng, 1, grid, None)
        for column, share in enumerate(shares):
            kept = places >= round(share * grid * grid)
            above, below = axes[2 * number, column], axes[2 * number + 1, column]
            pixels = students[0].transform(image)[None]
            config = students[0].model.pretrained_cfg
            seen = mask_tokens(pixels, kept)[0]
            picture(above, shown(seen, config["mean"], config["std"]), f"{names[label]}, {share:.0%} dropped")
            found = [answers(student, mask_tokens(student.transform(image)[None], kept))[0] for student in students]
            _bars(below, [student.label for student in students], found, label, names)
    return figure


def _bars(axes: Any, students: Sequence[str], found: Sequence[Answer], label: int, names: Sequence[str]) -> None:
    """Horizontal bars, the students one below the other."""
    lines = [(s, c, p) for s, answer in enumerate(found) for c, p in zip(*answer, strict=True)]
    for line, (student, number, probability) in enumerate(lines):
        y = line + student / 2
        axes.barh(y, probability, color=COLOURS[student % len(COLOURS)], alpha=1.0 if number == label else 0.35)
        axes.text(0.02, y, f"{names[number][:20]} {probability:.2f}", va="center", fontsize=7)
    for student, name in enumerate(students):
        axes.text(
            1,
            student * (FIRST + 0.5) + 1,
            name,
            ha="right",
            va="center",
            fontsize=7,
            color=COLOURS[student % len(COLOURS)],
        )
    axes.set(xlim=(0, 1), ylim=(len(lines) + len(students) / 2 - 0.5, -0.7), xticks=[], yticks=[])


@click.command(help="Draw what students say of some of IMAGES, a class folder, while tokens are dropped.")
@click.argument("images", type=click.Path(exists=True, path_type=Path))
@student_options
@click.option("--count", type=click.IntRange(1), default=3, show_default=True, help="Images.")
@click.option("--grid", type=click.IntRange(1), help="Tokens per side; default: the students' patches.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the images and of the dropped tokens.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default="confidences.png", show_default=True)
def main(images: Path, count: int, grid: int | None, seed: int, output: Path, **student: Any) -> None:
    """Load, choose, draw."""
    with mistakes_as_messages():
        _draw_into(output, images, count, grid, seed, student)
    click.echo(f"{output}: the three likeliest classes at each share of dropped tokens")


def _draw_into(output: Path, images: Path, count: int, grid: int | None, seed: int, student: Mapping[str, Any]) -> None:
    listed, rng = list_images(images), np.random.default_rng(seed)
    if len(listed.class_names) != student["num_classes"]:
        raise click.UsageError(
            f"--num-classes {student['num_classes']}: expected the {len(listed.class_names)} class folders of {images}"
        )
    students, rows = load_students(**student), choose(listed.labels, count, rng)
    side = tokens_per_side(students, grid)
    labels = [int(listed.labels[row]) for row in rows]
    figure = draw(students, decoded(listed, rows), labels, listed.class_names, side, (0, 0.25, 0.5, 0.75), rng)
    save(figure, output)


if __name__ == "__main__":
    main()
