"""The area that a map calls salient beside the object's true one (TokenMix, Fig. 8).

    python -m recipes.evaluate.salient_area IMAGES MAPS --masks MASKS --count 6

The salient area is what Otsu's threshold, as in evidence `contrast`, leaves of the map. MASKS has a mask for each
image, `CLASS/NAME.png`, as the recipes cut_outs and context_digits write them; without it there is nothing to compare.
Prints, over all images that were chosen, how much of the salient area lies on the object and how much of the object is
salient.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from recipes.evaluate.batch import SIDE_PX, whole_images
from recipes.evaluate.drawing import COLOURS, grid_of, heat, picture, save
from tokenmix_loader import MapStore, read_tokens

OPAQUE = 128  # from this opacity on a pixel is the object's
CELLS = 56  # per side: the areas are compared there
SALIENT, OBJECT = COLOURS[1], COLOURS[2]


def salient(tokens: torch.Tensor) -> torch.Tensor:
    """Where there is evidence left, bool [B, 56, 56], of evidence `contrast` [B, 56, 56]."""
    return tokens > 0


def overlap(area: torch.Tensor, mask: torch.Tensor) -> tuple[float, float]:
    """Share of the salient area on the object, and of the object in the salient area; NaN where an area is empty."""
    both = float((area & mask).sum())
    return tuple(both / float(part.sum()) if part.any() else float("nan") for part in (area, mask))  # type: ignore[return-value]


def read_mask(path: Path) -> torch.Tensor:
    """bool [56, 56]; where most of the cell is the object's."""
    with Image.open(path) as file:
        cells = file.convert("L").resize((CELLS, CELLS), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(cells) >= OPAQUE)


def draw(
    pixels: torch.Tensor, tokens: torch.Tensor, masks: Sequence[torch.Tensor | None], names: Sequence[str]
) -> Figure:
    """A column per image [B, 3, H, W] from 0 to 1: the image, its evidence [B, 56, 56], and both areas."""
    figure, axes = grid_of(3, len(pixels), 1.8)
    for column, (image, values, mask, name) in enumerate(zip(pixels, tokens, masks, names, strict=True)):
        array = image.permute(1, 2, 0).numpy()
        picture(axes[0, column], array, name[:20])
        heat(axes[1, column], array, values)
        picture(axes[2, column], array)
        area = salient(values)
        _outline(axes[2, column], area, SALIENT)
        if mask is not None:
            _outline(axes[2, column], mask, OBJECT)
            axes[2, column].set_title("{:.2f}, {:.2f}".format(*overlap(area, mask)), fontsize=9)
    return figure


def _outline(axes: Any, area: torch.Tensor, colour: str) -> None:
    step = SIDE_PX / CELLS
    centres = (np.arange(CELLS) + 0.5) * step - 0.5
    axes.contour(centres, centres, area.float().numpy(), levels=[0.5], colors=[colour], linewidths=1.5)


@click.command(help="Compare what MAPS call salient in IMAGES with the objects' masks.")
@click.argument("images", type=click.Path(exists=True, path_type=Path))
@click.argument("maps", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--masks", type=click.Path(exists=True, file_okay=False, path_type=Path), help="A mask for each image.")
@click.option("--count", type=click.IntRange(1), default=6, show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of the choice of images.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default="salient-area.png", show_default=True)
def main(images: Path, maps: Path, masks: Path | None, count: int, seed: int, output: Path) -> None:
    """Choose, read, compare, draw."""
    store = MapStore(maps)
    pixels, targets, keys, names = whole_images(images, store, count, np.random.default_rng(seed))
    tokens = read_tokens(store, targets, (CELLS, CELLS), "contrast")
    found = [read_mask(masks / f"{Path(key).with_suffix('')}.png") if masks else None for key in keys]
    save(draw(pixels, tokens, found, [names[int(label)] for label in targets.label]), output)
    shares = [overlap(salient(each), mask) for each, mask in zip(tokens, found, strict=True) if mask is not None]
    if shares:
        on_object, covered = np.nanmean(np.array(shares), axis=0)
        click.echo(f"of the salient area {on_object:.0%} lies on the object; of the object {covered:.0%} is salient")
    click.echo(f"{output}: orange the salient area, green the object")


if __name__ == "__main__":
    main()
