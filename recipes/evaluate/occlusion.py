"""Accuracy of a model that sees only some tokens of each image (TokenMix, Fig. 4, after arXiv 2105.10497).

    python recipes/evaluate/occlusion.py IMAGES --model deit_small_patch16_224 --checkpoint model.pt --maps MAPS

Tokens are dropped at random and, with maps of the same images, those of most evidence first ("attentive") and those
of least evidence first ("background"). Dropped tokens show the mean colour. Prints a table and draws it. Needs an
installed tokenmix-maps and nothing else of the repository.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import timm
import torch
from PIL import Image, ImageDraw, ImageFont
from timm.data import create_dataset, create_transform, resolve_data_config
from torch.utils.data import DataLoader

from tokenmix_loader import MapDataset, MapStore, mix_images, read_tokens

Curves = dict[str, list[float]]
COLOURS = {"random": (90, 90, 90), "attentive": (214, 94, 0), "background": (0, 114, 178)}
WIDTH, HEIGHT, MARGIN = 560, 380, 56


@click.command(help="Evaluate a model on IMAGES, a class folder, with tokens dropped.")
@click.argument("images", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--model", "name", default="deit_small_patch16_224", show_default=True)
@click.option("--checkpoint", type=click.Path(exists=True, path_type=Path), help="Weights; default: timm's own.")
@click.option("--model-arg", "model_args", multiple=True, help="NAME=NUMBER for timm; repeatable.")
@click.option("--num-classes", type=int, default=1000, show_default=True)
@click.option("--input-size", type=int, help="Pixels; default: the model's.")
@click.option("--crop-pct", type=float, help="Default: the model's.")
@click.option("--crop-mode", type=click.Choice(["center", "squash", "border"]), help="Default: the model's.")
@click.option("--maps", type=click.Path(exists=True, file_okay=False, path_type=Path), help="A store of IMAGES.")
@click.option("--grid", type=int, default=14, show_default=True, help="Tokens per side.")
@click.option("--steps", type=click.IntRange(2), default=11, show_default=True, help="Shares of 0 to 1 that are kept.")
@click.option("--batch-size", type=int, default=128, show_default=True)
@click.option("--workers", type=int, default=4, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default="occlusion.png", show_default=True)
def main(
    images: Path, name: str, checkpoint: Path | None, model_args: tuple[str, ...], num_classes: int,
    input_size: int | None, crop_pct: float | None, crop_mode: str | None, maps: Path | None, grid: int, steps: int,
    batch_size: int, workers: int, seed: int, output: Path,
) -> None:  # fmt: skip
    """Load, evaluate, print and draw."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options = {key: int(value) for key, _, value in (text.partition("=") for text in model_args)}
    weights: dict[str, Any] = {"checkpoint_path": str(checkpoint)} if checkpoint else {"pretrained": True}
    model = timm.create_model(name, num_classes=num_classes, **weights, **options).to(device).eval()
    size = (3, input_size, input_size) if input_size else None
    given = {"input_size": size, "crop_pct": crop_pct, "crop_mode": crop_mode}
    config = resolve_data_config({key: value for key, value in given.items() if value}, model=model)
    transform = create_transform(**config, is_training=False)
    dataset = create_dataset("", root=str(images), is_training=False, transform=None if maps else transform)
    store = MapStore(maps) if maps else None
    loader = DataLoader(MapDataset(dataset, store, transform) if store else dataset, batch_size, num_workers=workers)
    shares = np.linspace(0, 1, steps).tolist()
    curves = evaluate(model, loader, store, grid, shares, np.random.default_rng(seed), device)
    click.echo("dropped    " + "".join(f"{share:7.0%}" for share in shares))
    for order, accuracies in curves.items():
        click.echo(f"{order:11}" + "".join(f"{accuracy:7.1%}" for accuracy in accuracies))
    draw(shares, curves).save(output)
    click.echo(f"{output}: the same as curves")


@torch.inference_mode()
def evaluate(
    model: torch.nn.Module,
    loader: DataLoader[Any],
    store: MapStore | None,
    grid: int,
    shares: list[float],
    rng: np.random.Generator,
    device: torch.device,
) -> Curves:
    """Top-1 for each order of dropping and each share of tokens dropped."""
    hits: dict[str, npt.NDArray[np.int64]] = {}
    count = 0
    for pixels, target in loader:
        label = target if store is None else target.label
        tokens = None if store is None else read_tokens(store, target, (grid, grid))
        for order, places in orders(rng, len(pixels), grid, tokens):
            for step, share in enumerate(shares):
                shown = mask_tokens(pixels, places >= round(share * grid * grid)).to(device)
                right = int((model(shown).argmax(1).cpu() == label).sum())
                hits.setdefault(order, np.zeros(len(shares), np.int64))[step] += right
        count += len(pixels)
    return {order: (found / count).tolist() for order, found in hits.items()}


def orders(
    rng: np.random.Generator, batch: int, grid: int, tokens: torch.Tensor | None
) -> Iterator[tuple[str, torch.Tensor]]:
    """The place of each token in the order of dropping, [B, grid, grid] from 0; ties fall by lot."""
    lots = rng.random((batch, grid * grid))
    keys: dict[str, npt.NDArray[Any]] = {"random": np.zeros_like(lots)}
    if tokens is not None:
        keys |= {"attentive": -tokens.flatten(1).numpy(), "background": tokens.flatten(1).numpy()}
    for order, key in keys.items():
        ranks = np.lexsort((lots, key), axis=1).argsort(axis=1)
        yield order, torch.from_numpy(ranks.reshape(batch, grid, grid))


def mask_tokens(pixels: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
    """Normalised images [B, 3, H, W] that are zero, the mean colour, where `shown` [B, grid, grid] is False."""
    both = torch.cat((pixels, torch.zeros_like(pixels)))
    return mix_images(both, torch.cat((shown, shown)))[: len(pixels)]


def draw(shares: list[float], curves: Curves) -> Image.Image:
    """Accuracy over the share of tokens that is dropped."""
    sheet = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)

    def at(share: float, accuracy: float) -> tuple[float, float]:
        return MARGIN + share * (WIDTH - 2 * MARGIN), HEIGHT - MARGIN - accuracy * (HEIGHT - 2 * MARGIN)

    for tick in np.linspace(0, 1, 6).tolist():
        pen.line((*at(0, tick), *at(1, tick)), (225, 225, 225))
        pen.text((MARGIN - 8, at(0, tick)[1]), f"{tick:.0%}", "black", font, anchor="rm")
        pen.text((at(tick, 0)[0], HEIGHT - MARGIN + 16), f"{tick:.0%}", "black", font, anchor="mm")
    pen.text((WIDTH / 2, HEIGHT - 16), "tokens dropped", "black", font, anchor="mm")
    for line, (order, accuracies) in enumerate(curves.items()):
        points = [at(*point) for point in zip(shares, accuracies, strict=True)]
        pen.line(points, COLOURS[order], 3, joint="curve")
        pen.text((WIDTH - MARGIN, 20 + 18 * line), order, COLOURS[order], font, anchor="rm")
    return sheet


if __name__ == "__main__":
    main()
