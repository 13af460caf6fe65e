"""What a pre-trained backbone is worth in segmentation, at the scale of a laptop: cut-outs on unseen photographs.

    python -m recipes.transfer.cut_outs FOLDER --seeds 5

Three arms with the same seeds: EfficientNet-lite0 with ImageNet weights, the same network from random weights, and the
latter without layer decay, which holds its early layers back. 13 classes (12 objects and background); mIoU on
photographs that the training does not have. Leaves FOLDER/results.json with every run; a repeated call goes on where
it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

import click
import numpy as np
import timm
import torch

from benchmarks.read import machine
from extract.teacher.packaged import load_packaged
from recipes.cut_outs.generate import generate
from recipes.cut_outs.scene import Look, write_objects
from recipes.cut_outs.stamps import stamp_folder
from recipes.intervals import interval
from recipes.transfer.scenes import read_scenes
from recipes.transfer.segment import Settings, Training

SMALL: Final = Settings(
    "tf_efficientnet_lite0", level=-2, width=64, crop_px=128, short_side_px=144, steps=600, batch_size=8, warmup=60
)
ARMS: Final[Mapping[str, str]] = {
    "pre-trained": "ImageNet weights, layer decay .65",
    "from scratch": "random weights, layer decay .65",
    "from scratch, no layer decay": "random weights, every layer at the full rate",
}


def settings_of(arm: str, seed: int, weights: Path, steps: int) -> Settings:
    """Of one run."""
    return replace(
        SMALL, seed=seed, steps=steps, warmup=steps // 10,
        checkpoint=str(weights) if arm == "pre-trained" else None,
        layer_decay=1.0 if arm.endswith("no layer decay") else SMALL.layer_decay,
    )  # fmt: skip


def write_weights(path: Path) -> Path:
    """The registry package's ImageNet weights as a checkpoint of timm's model."""
    if not path.is_file():
        model = timm.create_model("tf_efficientnet_lite0")
        load_packaged(model, "efficientnet_lite0")
        torch.save(model.state_dict(), path)
    return path


@click.command(help="Compare the arms in FOLDER.")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--seeds", type=click.IntRange(2), default=5, show_default=True)
@click.option("--classes", type=click.IntRange(2, 60), default=12, show_default=True)
@click.option("--images", default=1200, show_default=True, help="For training.")
@click.option("--test-images", default=360, show_default=True)
@click.option("--steps", default=SMALL.steps, show_default=True)
@click.option("--stamps", type=click.Path(file_okay=False, path_type=Path), help="Folder of the stamps.")
def main(
    folder: Path, seeds: int, classes: int, images: int, test_images: int, steps: int, stamps: Path | None
) -> None:
    """Generate, train every arm with every seed, print a table."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        look = Look(stamp_folder(stamps), write_objects(folder / "objects.json", classes))
        generate(folder / "train", images, seed=0, split="train", look=look)
        generate(folder / "test", test_images, seed=0, split="test", look=look)
    except OSError as error:
        raise click.ClickException(str(error)) from error
    weights, train, test = write_weights(folder / "lite0.pth"), *map(read_scenes, (folder / "train", folder / "test"))
    results, path = {arm: [] for arm in ARMS}, folder / "results.json"  # type: dict[str, list[float]], Path
    for seed in range(seeds):
        for arm in ARMS:
            out = folder / "runs" / f"{arm.replace(' ', '-').replace(',', '')}-{seed}"
            out.mkdir(parents=True, exist_ok=True)
            training = Training(settings_of(arm, seed, weights, steps), train, torch.device("cpu"))
            training.run(out, workers=0, save_every=200)
            results[arm].append(training.test(test, multi_scale=False, workers=0).mean_iou)
            click.echo(f"{arm}, seed {seed}: mIoU {results[arm][-1]:.4f}")
    first, *others = ARMS
    summary = {arm: interval(found) for arm, found in results.items()}
    gains = {arm: interval(np.subtract(results[first], results[arm]).tolist()) for arm in others}
    said = {"settings": asdict(replace(SMALL, steps=steps)), "classes": classes, "images": images,
            "test_images": test_images, "arms": ARMS, "machine": machine()}  # fmt: skip
    figures = {name: {arm: asdict(found) for arm, found in part.items()} for name, part in
               (("summary", summary), ("gains", gains))}  # fmt: skip
    path.write_text(json.dumps(said | {"mean_iou": results} | figures, indent=1) + "\n")
    for arm, found in (*summary.items(), *((f"{first} minus {arm}", gain) for arm, gain in gains.items())):
        click.echo(f"{arm:45} {found.mean:.3f} ± {found.half:.3f}")


if __name__ == "__main__":
    main()
