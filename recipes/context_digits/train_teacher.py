"""Trains the teacher of context digits: timm's `test_resnet` at output stride 8; 20 minutes on one busy core.

python -m recipes.context_digits.train_teacher recipes/context_digits/teacher.safetensors

Global average pooling drowns a small digit in its background, so training starts with crops tight around the
digit and widens them. A crop that shows none of the digit belongs to an extra class whose logit is fixed at
zero: the teacher learns to score background tokens below zero, which its maps need and its accuracy does not
ask for.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Final, NamedTuple

import click
import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from recipes.context_digits.scene import NUM_CLASSES, render

INPUT_PX: Final = 96  # of a whole image; crops have as many pixels per pixel of the image, or more
POOL_PX: Final = 128  # scenes are kept squashed to this size, and cropped from it
TIGHT: Final = 1.3  # side of the first crops, over the digit's
CROP_ASPECT: Final = (0.75, 1 / 0.75)
STRAY: Final = 0.25  # share of the crops that are placed without regard to the digit
SHOWN: Final = 0.6  # share of the stroke in the crop above which the digit counts as there
HIDDEN: Final = 0.1  # and below which it does not; crops in between are left out
PEAK_RATE: Final = 4e-3
WEIGHT_DECAY: Final = 0.02
CHECK_EVERY: Final = 500  # steps
CHECKS: Final = 1000  # images of the test split
LEFT_OUT: Final = -100  # cross_entropy's own default


class Pool(NamedTuple):
    """Squashed scenes: pixels uint8 [n, 3, s, s], masks uint8 [n, 1, s, s], labels int64 [n].

    `boxes` float32 [n, 4] holds the digit's (x0, y0, x1, y1) in the unit square.
    """

    pixels: Tensor
    masks: Tensor
    labels: Tensor
    boxes: Tensor


def teacher() -> nn.Module:
    """The architecture that `teacher.safetensors` belongs to; input [B, 3, 96, 96] in -1..1, map 12 x 12."""
    model: nn.Module = timm.create_model("test_resnet", num_classes=NUM_CLASSES, output_stride=8)
    return model


def scenes(seed: int, split: str, count: int, side_px: int) -> Pool:
    """The first `count` scenes of a split, squashed to side_px x side_px."""
    pixels = np.empty((count, side_px, side_px, 3), np.uint8)
    masks = np.empty((count, 1, side_px, side_px), np.uint8)
    labels, boxes = np.empty(count, np.int64), np.empty((count, 4), np.float32)
    for index in range(count):
        scene = render(seed, split, index)
        pixels[index] = np.asarray(scene.image.resize((side_px, side_px), Image.Resampling.BILINEAR))
        masks[index, 0] = np.asarray(scene.mask.resize((side_px, side_px), Image.Resampling.BILINEAR))
        labels[index] = scene.label
        boxes[index] = np.divide(scene.mask.getbbox() or (0, 0, 0, 0), scene.mask.size * 2)
    arrays = pixels.transpose(0, 3, 1, 2), masks, labels, boxes
    return Pool(*(torch.from_numpy(array) for array in arrays))


def normalise(pixels: Tensor) -> Tensor:
    """uint8 -> the model's own default: mean 0.5, std 0.5."""
    return pixels.float().div(127.5).sub(1)


def accuracy(model: nn.Module, pool: Pool) -> float:
    """Top-1 of whole, squashed images."""
    model.eval()
    with torch.inference_mode():
        chunks = DataLoader(TensorDataset(pool.pixels, pool.labels), batch_size=250)
        hits = sum(int((model(normalise(pixels)).argmax(1) == labels).sum()) for pixels, labels in chunks)
    return hits / len(pool.labels)


class Stage(NamedTuple):
    """Crops at one time of the training: 0 tight .. 1 free, side in px, area of free ones over the image's."""

    spread: float
    px: int
    area: tuple[float, float] = (0.15, 0.7)


def stage(progress: float) -> Stage:
    """From tight, small and quick to free, and at the end whole images too."""
    if progress >= 0.85:
        return Stage(1, INPUT_PX, (0.35, 1.0))
    spread = min(max((progress - 0.15) / 0.35, 0), 1)
    return Stage(spread, 32 if spread == 0 else 48 if spread < 0.5 else 64)


def random_crops(pool: Pool, rows: Tensor, rng: torch.Generator, at: Stage) -> tuple[Tensor, Tensor]:
    """Jittered crops [B, 3, s, s] and the share [B] of the digit's stroke that each one shows."""
    size, centre = _windows(pool.boxes[rows], torch.rand(len(rows), 5, generator=rng), at)
    # affine_grid's coordinates run from -1 to 1.
    affine = torch.cat([torch.diag_embed(size), (2 * centre - 1)[..., None]], 2)
    grid = F.affine_grid(affine, [len(rows), 3, at.px, at.px], align_corners=False)
    masks = pool.masks[rows].float()
    crop = F.grid_sample(torch.cat([normalise(pool.pixels[rows]), masks], 1), grid, align_corners=False)
    shown = crop[:, 3].mean((1, 2)) * size.prod(1) / masks.mean((1, 2, 3))
    return _jitter(crop[:, :3], rng), shown


def _windows(boxes: Tensor, chance: Tensor, at: Stage) -> tuple[Tensor, Tensor]:
    """Size and centre [B, 2] of the crops, in the unit square and inside of it; `chance` [B, 5] is uniform."""
    spread, (low, high) = at.spread, at.area
    free_side = (low + (high - low) * chance[:, 0]).sqrt()
    tight_side = TIGHT * (boxes[:, 2:] - boxes[:, :2]).amax(1)
    side = spread * free_side + (1 - spread) * tight_side
    stretch = (CROP_ASPECT[0] * (CROP_ASPECT[1] / CROP_ASPECT[0]) ** chance[:, 1]).sqrt()
    size = torch.stack([side * stretch, side / stretch], 1).clamp(max=1)
    anywhere = size / 2 + (1 - size) * chance[:, 2:4]
    near = (boxes[:, :2] + boxes[:, 2:]) / 2 + spread * size * (chance[:, 2:4] - 0.5)
    near = torch.minimum(torch.maximum(near, size / 2), 1 - size / 2)
    return size, torch.where(chance[:, 4:] < STRAY * spread, anywhere, near)


def _jitter(images: Tensor, rng: torch.Generator) -> Tensor:
    gain = 1 + 0.3 * (torch.rand(len(images), 3, 1, 1, generator=rng) - 0.5)
    offset = 0.4 * (torch.rand(len(images), 3, 1, 1, generator=rng) - 0.5)
    return (images * gain + offset).clamp(-1, 1)


def loss(logits: Tensor, labels: Tensor, shown: Tensor) -> Tensor:
    """Cross-entropy with "no digit" as one more class, of logit zero."""
    target = torch.where(shown >= SHOWN, labels, torch.where(shown <= HIDDEN, NUM_CLASSES, LEFT_OUT))
    return F.cross_entropy(F.pad(logits, (0, 1)), target, ignore_index=LEFT_OUT)


def train(pool: Pool, held_out: Pool, steps: int, batch: int, seed: int) -> Iterator[tuple[nn.Module, str]]:
    """Yields the model and a line of the log, from time to time and at the end."""
    torch.manual_seed(seed)  # timm's initialisation takes no generator
    rng = torch.Generator().manual_seed(seed)
    model = teacher().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_RATE, steps, pct_start=0.04, div_factor=4)
    start, total = time.monotonic(), 0.0
    for done in range(1, steps + 1):
        rows = torch.randint(len(pool.labels), (batch,), generator=rng)
        images, shown = random_crops(pool, rows, rng, stage((done - 1) / steps))
        logits = model.train()(images.contiguous(memory_format=torch.channels_last))
        total += step(optimiser, loss(logits, pool.labels[rows], shown))
        schedule.step()
        if done % CHECK_EVERY == 0 or done == steps:
            top1, seconds = accuracy(model, held_out), time.monotonic() - start
            mean = total / ((done - 1) % CHECK_EVERY + 1)
            yield model, f"step {done:5d}  loss {mean:.4f}  top-1 {top1:.4f}  {seconds:5.0f} s"
            total = 0.0


def step(optimiser: torch.optim.Optimizer, value: Tensor) -> float:
    """One update; returns the loss."""
    optimiser.zero_grad()
    torch.autograd.backward(value)
    optimiser.step()
    return value.item()


@click.command(help="Train on the train split and write the weights to OUT, the log beside them.")
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--images", type=int, default=16_000, show_default=True)
@click.option("--steps", type=int, default=4000, show_default=True)
@click.option("--batch-size", type=int, default=64, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--threads", type=int, default=1, show_default=True)
def main(out: Path, images: int, steps: int, batch_size: int, seed: int, threads: int) -> None:
    """Train, then save; every line of the log is also printed as it comes."""
    torch.set_num_threads(threads)
    pool, held_out = scenes(seed, "train", images, POOL_PX), scenes(seed, "test", CHECKS, INPUT_PX)
    libraries = (f"{name} {version(name)}" for name in ("torch", "timm", "numpy", "pillow", "scikit-image"))
    lines = [
        f"train_teacher --images {images} --steps {steps} --batch-size {batch_size} --seed {seed}",
        f"python {platform.python_version()}  {'  '.join(libraries)}  threads {threads}",
    ]
    print(*lines, sep="\n", flush=True)
    for model, line in train(pool, held_out, steps, batch_size, seed):
        print(line, flush=True)
        lines.append(line)
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, out)
    out.with_suffix(".log").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
