"""Accuracy of students that see only some tokens of each image (TokenMix, Fig. 5, after arXiv 2105.10497).

    python -m recipes.evaluate.occlusion IMAGES --model deit_small_patch16_224 --checkpoint cutmix.pt \\
        --checkpoint tokenmix.pt --maps MAPS

Tokens are dropped at random and, with maps of the same images, those of most evidence first ("attentive") and those
of least evidence first ("background"). Dropped tokens show the mean colour. Prints a table, and draws one panel per
order with a line for each checkpoint and its 95 % interval over images (Wilson).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from timm.data import create_dataset
from torch.utils.data import DataLoader

from recipes.evaluate.drawing import COLOURS, save
from recipes.evaluate.student import (
    Student,
    load_students,
    mistakes_as_messages,
    outputs_of,
    student_options,
    tokens_per_side,
)
from recipes.intervals import wilson
from tokenmix_loader import MapDataset, MapStore, mix_images, read_tokens

Ints = npt.NDArray[np.int64]
Curves = dict[str, Ints]  # order -> images classified correctly at each share of dropped tokens


@click.command(help="Evaluate students on IMAGES, a class folder, with tokens dropped.")
@click.argument("images", type=click.Path(exists=True, file_okay=False, path_type=Path))
@student_options
@click.option("--class-map", type=click.Path(exists=True, path_type=Path), help="As for `tokenmix extract`.")
@click.option("--maps", type=click.Path(exists=True, file_okay=False, path_type=Path), help="A store of IMAGES.")
@click.option("--grid", type=click.IntRange(1), help="Tokens per side; default: the students' patches.")
@click.option(
    "--steps", type=click.IntRange(2), default=11, show_default=True, help="Shares of 0 to 1 that are dropped."
)
@click.option("--batch-size", type=int, default=128, show_default=True)
@click.option("--workers", type=int, default=4, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default="occlusion.png", show_default=True)
def main(
    images: Path, class_map: Path | None, maps: Path | None, grid: int | None, steps: int, batch_size: int,
    workers: int, seed: int, output: Path, **student: Any,
) -> None:  # fmt: skip
    """Load, evaluate, print and draw."""
    shares, curves, count = np.linspace(0, 1, steps).tolist(), {}, 0
    with mistakes_as_messages():
        store, students = MapStore(maps) if maps else None, load_students(**student)
        side = tokens_per_side(students, grid)
        outputs = outputs_of(images, student["num_classes"], class_map)
        for one in students:
            own = None if store else one.transform
            dataset = create_dataset("", root=str(images), is_training=False, transform=own)
            count = len(dataset)
            joined = MapDataset(dataset, store, one.transform) if store else dataset
            loader = DataLoader(joined, batch_size, num_workers=workers)
            rng = np.random.default_rng(seed)
            curves[one.label] = evaluate(one, loader, store, side, shares, rng, outputs)
    click.echo(f"{'dropped':30}" + "".join(f"{share:7.0%}" for share in shares))
    for label, found in curves.items():
        for order, hits in found.items():
            click.echo(f"{f'{label}, {order}':30}" + "".join(f"{share:7.1%}" for share in hits / count))
    save(draw(shares, curves, count), output)
    click.echo(f"{output}: the same as curves")


@torch.inference_mode()
def evaluate(
    student: Student, loader: DataLoader[Any], store: MapStore | None, grid: int, shares: list[float],
    rng: np.random.Generator, outputs: torch.Tensor | None = None,
) -> Curves:  # fmt: skip
    """How many images are classified correctly, for each order of dropping and each share of tokens dropped.

    `outputs` [K]: the student's output of each class; default: they have one order.
    """
    hits: Curves = {}
    for pixels, target in loader:
        label = target if store is None else target.label
        label = label if outputs is None else outputs[label]
        tokens = None if store is None else read_tokens(store, target, (grid, grid))
        for order, places in orders(rng, len(pixels), grid, tokens):
            for step, share in enumerate(shares):
                seen = mask_tokens(pixels, places >= round(share * grid * grid)).to(student.device)
                right = int((student.model(seen).argmax(1).cpu() == label).sum())
                hits.setdefault(order, np.zeros(len(shares), np.int64))[step] += right
    return hits


def orders(
    rng: np.random.Generator, batch: int, grid: int, tokens: torch.Tensor | None
) -> Iterator[tuple[str, torch.Tensor]]:
    """The place of each token in the order of dropping, [B, grid, grid] from 0; ties are broken at random."""
    tie_break = rng.random((batch, grid * grid))
    keys: dict[str, npt.NDArray[Any]] = {"random": np.zeros_like(tie_break)}
    if tokens is not None:
        keys |= {"attentive": -tokens.flatten(1).numpy(), "background": tokens.flatten(1).numpy()}
    for order, key in keys.items():
        ranks = np.lexsort((tie_break, key), axis=1).argsort(axis=1)
        yield order, torch.from_numpy(ranks.reshape(batch, grid, grid))


def mask_tokens(pixels: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
    """Normalised images [B, 3, H, W] that are zero, the mean colour, where `shown` [B, grid, grid] is False."""
    both = torch.cat((pixels, torch.zeros_like(pixels)))
    return mix_images(both, torch.cat((shown, shown)))[: len(pixels)]


def draw(shares: list[float], curves: dict[str, Curves], count: int) -> Figure:
    """Accuracy over the share of tokens that is dropped: a panel per order, a line per student."""
    panels = list(next(iter(curves.values())))
    figure = Figure(figsize=(3.6 * len(panels) + 0.6, 3.2), layout="constrained")
    for axes, order in zip(figure.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels, strict=True):
        for colour, (label, found) in zip(COLOURS * len(curves), curves.items(), strict=False):
            axes.plot(shares, found[order] / count, color=colour, label=label, marker=".")
            axes.fill_between(shares, *wilson(found[order], count), color=colour, alpha=0.2, linewidth=0)
        axes.set(title=f"dropped: {order}", xlabel="share of tokens dropped", ylim=(0, 1))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("top-1")
    figure.axes[0].legend()
    return figure


if __name__ == "__main__":
    main()
