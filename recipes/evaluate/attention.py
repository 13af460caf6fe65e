"""Where the class token looks, layer by layer (TokenMix, Fig. 3), for any vision transformer of timm that has one.

python -m recipes.evaluate.attention IMAGES --model deit_small_patch16_224 --checkpoint model.pt --count 4
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from timm.utils import AttentionExtract

from extract.images import list_images
from recipes.evaluate.batch import choose, decoded
from recipes.evaluate.drawing import grid_of, heat, picture, save, shown
from recipes.evaluate.student import Student, load_students, mistakes_as_messages, student_options


@torch.inference_mode()
def class_token_attention(model: Any, images: torch.Tensor) -> torch.Tensor:
    """Attention of the class token over the patches, float32 [L, B, gh, gw], mean over heads.

    L counts the layers with a class token, in order: all of a ViT, the last two of CaiT. Attention on the class token
    itself and on registers is left out, so a map may sum to less than 1. Raises ValueError for a model without it.
    """
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if grid is None or not getattr(model, "num_prefix_tokens", 0):
        raise ValueError(f"{type(model).__name__}: expected a vision transformer with a class token, found none")
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # the fused kernel never has the attention itself
    patches = grid[0] * grid[1]
    found = AttentionExtract(model, method="hook")(images)
    # Layers that attend among the patches alone, as CaiT's first ones, have no column for the class token.
    layers = [each[:, :, 0, -patches:].mean(1) for each in found.values() if each.shape[-1] > patches]
    return torch.stack(layers).reshape(len(layers), len(images), *grid).float().cpu()


def draw(students: list[Student], images: list[Image.Image], layers: int = 12) -> Figure:
    """A row per image and student: the image, then the attention of `layers` layers spread over the depth."""
    rows = []
    for student in students:
        pixels = torch.stack([student.transform(image) for image in images])
        attention = class_token_attention(student.model, pixels.to(student.device))
        config = student.model.pretrained_cfg
        rows += [
            (student.label, shown(p, config["mean"], config["std"]), attention[:, i]) for i, p in enumerate(pixels)
        ]
    depth = len(rows[0][2])
    chosen = np.unique(np.linspace(0, depth - 1, min(layers, depth)).round().astype(int)).tolist()
    figure, axes = grid_of(len(rows), 1 + len(chosen), 1.2)
    for line, (label, image, maps) in zip(axes, rows, strict=True):
        picture(line[0], image, label)
        for column, layer in zip(line[1:], chosen, strict=True):
            heat(column, image, maps[layer], f"layer {layer + 1}")
    return figure


@click.command(help="Draw the class token's attention on some of IMAGES.")
@click.argument("images", type=click.Path(exists=True, path_type=Path))
@student_options
@click.option("--count", type=click.IntRange(1), default=4, show_default=True, help="Images.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of their choice.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default="attention.png", show_default=True)
def main(images: Path, count: int, seed: int, output: Path, **student: Any) -> None:
    """Load, choose, draw."""
    with mistakes_as_messages():
        listed = list_images(images)
        chosen = choose(listed.labels, count, np.random.default_rng(seed))
        save(draw(load_students(**student), decoded(listed, chosen)), output)
    click.echo(f"{output}: attention of the class token")


if __name__ == "__main__":
    main()
