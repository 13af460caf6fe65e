"""One batch mixed in every way, side by side (TokenMix, Fig. 7), each with what its labels are worth.

    python -m recipes.evaluate.masks IMAGES MAPS --pairs 2

Above each mixed image stand the two largest scores of its target, without smoothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import torch
from matplotlib.figure import Figure

from recipes.evaluate.batch import SIDE_PX, whole_images
from recipes.evaluate.drawing import grid_of, picture, save
from tokenmix_loader import MapStore, TokenMix
from tokenmix_loader.batch import MapTarget

KINDS = ("cutmix", "region", "random", "block", "attentive", "saliencymix", "puzzle", "comix")


def draw(
    pixels: torch.Tensor, targets: MapTarget, store: MapStore, names: Sequence[str], grid: int, seed: int,
    kinds: Sequence[str] = KINDS,
) -> Figure:  # fmt: skip
    """A row per pair of the batch [2 P, 3, H, W]: image a, image b, Mixup, and every kind of mask."""
    pairs = len(pixels) // 2
    figure, axes = grid_of(pairs, 3 + len(kinds), 1.6)
    mixed = {"mixup": mix(pixels, targets, store, names, grid, seed, kind="block", mixup=True)}
    mixed |= {kind: mix(pixels, targets, store, names, grid, seed, kind=kind) for kind in kinds}
    for a in range(pairs):
        for axis, number in zip(axes[a], (a, -1 - a), strict=False):
            picture(axis, _array(pixels[number]), names[int(targets.label[number])][:20])
        for axis, (kind, (images, dense)) in zip(axes[a, 2:], mixed.items(), strict=True):
            scores, classes = dense[a].topk(2)
            said = (f"{names[k][:12]} {s:.2f}" for k, s in zip(classes.tolist(), scores.tolist(), strict=True))
            picture(axis, _array(images[a]), "\n".join((kind, *said)))
    return figure


def mix(
    pixels: torch.Tensor, targets: MapTarget, store: MapStore, names: Sequence[str], grid: int, seed: int, *,
    kind: str, mixup: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """The batch mixed by `TokenMix` as in training, and its targets [B, K]; with `mixup` as a whole instead."""
    tokenmix = TokenMix(
        store, len(names), (grid, grid), rng=np.random.default_rng(seed), kind=kind, label_smoothing=0.0,
        per="batch" if kind == "cutmix" else "sample",  # CutMix has one rectangle per batch
        mixup_alpha=0.8 if mixup else 0.0, switch_prob=0.0 if mixup else 1.0,
    )  # fmt: skip
    images, dense = tokenmix(pixels.clone(), targets)
    return images, dense


def _array(pixels: torch.Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return pixels.clamp(0, 1).permute(1, 2, 0).numpy()


@click.command(help="Mix pairs of IMAGES by every kind of mask; MAPS is their store.")
@click.argument("images", type=click.Path(exists=True, path_type=Path))
@click.argument("maps", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--pairs", type=click.IntRange(1), default=2, show_default=True)
@click.option("--grid", default=14, show_default=True, help=f"Tokens per side of {SIDE_PX} px.")
@click.option("--seed", default=0, show_default=True, help="Of the images and masks.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default="masks.png", show_default=True)
def main(images: Path, maps: Path, pairs: int, grid: int, seed: int, output: Path) -> None:
    """Choose, mix, draw."""
    store = MapStore(maps)
    pixels, targets, _, names = whole_images(images, store, 2 * pairs, np.random.default_rng(seed))
    save(draw(pixels, targets, store, names, grid, seed), output)
    click.echo(f"{output}: {2 * pairs} images mixed in {1 + len(KINDS)} ways")


if __name__ == "__main__":
    main()
