"""Semantic segmentation with a trained student as backbone: the paper's transfer to ADE20K (Tables 4 and 13).

    python -m recipes.transfer.segment ADEChallengeData2016 OUT --model deit_small_patch16_224 --checkpoint model.pt \\
        --device cuda --amp bf16

ADEChallengeData2016 is the folder of that name as its archive unpacks (images/training, annotations/training, ...).
Every default is Table 13's: Adam, learning rate 1e-3 falling linearly to 0 after 1,500 warm-up steps, 160,000 steps
of 16 crops of 512 px, weight decay .05. That table is BEiT's (arXiv 2106.08254, Table 14) without four of its rows,
which are taken from there: a layer decay of .65, without which 1e-3 is not credible for a vision transformer, AdamW's
betas and epsilon, drop path .1. The decoder is SETR-PUP's, without auxiliary heads. No code was
published for this combination.

Expected: 59 GMAC per crop of DeiT-T, 51 of them in the decoder; 1.5 to 3 hours on one H100 (arithmetic, not run). The
paper's mIoU with CutMix's and TokenMix's students: DeiT-T 36.4 and 37.1, S 42.3 and 44.5, B 46.3 and 46.8. Runs differ
by .3 to .5 from seed to seed on ADE20K, so the differences of T and B need several seeds: --seed.

A run that was killed goes on with the same command, and on a CPU ends with the very weights of one that was not.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import torch
from timm.data import resolve_data_config
from timm.scheduler import PolyLRScheduler
from torch import nn
from torch.utils.data import DataLoader

from recipes.transfer.measure import SCALES, Figures, evaluate
from recipes.transfer.model import Segmenter, create_backbone, create_optimizer
from recipes.transfer.scenes import IGNORED, Scenes, TrainingCrops, WholeScenes, read_scenes


@dataclass(frozen=True)
class Settings:
    """What decides the weights of a run, besides the images; Table 13 where it says something."""

    model: str
    checkpoint: str | None = None
    pretrained: bool = False
    level: int = -1
    width: int = 256
    crop_px: int = 512
    short_side_px: int = 512
    steps: int = 160_000
    batch_size: int = 16
    lr: float = 1e-3
    weight_decay: float = 0.05
    layer_decay: float = 0.65
    warmup: int = 1500
    drop_path: float = 0.1
    amp: str = "none"
    seed: int = 0


class Training:
    """A model under training, which knows its step, can be written to a file and goes on from there."""

    def __init__(self, settings: Settings, scenes: Scenes, device: torch.device):
        torch.manual_seed(settings.seed)
        weights = Path(settings.checkpoint) if settings.checkpoint else None
        backbone = create_backbone(
            settings.model, weights, pretrained=settings.pretrained, crop_px=settings.crop_px,
            drop_path=settings.drop_path,
        )  # fmt: skip
        config = resolve_data_config({}, model=backbone)
        self.mean, self.std = config["mean"], config["std"]
        self.settings, self.scenes, self.device, self.step = settings, scenes, device, 0
        self.model = Segmenter(backbone, settings.level, len(scenes.class_names), settings.width).to(device)
        self.optimizer = create_optimizer(self.model, settings.lr, settings.weight_decay, settings.layer_decay)
        self.schedule = PolyLRScheduler(
            self.optimizer, settings.steps, power=1.0, warmup_t=min(settings.warmup, settings.steps // 2),
            warmup_lr_init=settings.lr * 1e-6, t_in_epochs=False,
        )  # fmt: skip

    def run(self, out: Path, *, workers: int, save_every: int) -> None:
        """Train to the last step, with a checkpoint in `out` every so many steps, and go on from one that is there."""
        self._load(out / "last.pt")
        chosen = self.settings
        crops = TrainingCrops(
            self.scenes, chosen.crop_px, chosen.short_side_px, chosen.seed, self.mean, self.std
        )  # fmt: skip
        positions = range(self.step * chosen.batch_size, chosen.steps * chosen.batch_size)
        loader = DataLoader(
            crops, chosen.batch_size, sampler=positions, num_workers=workers,
            generator=torch.Generator(),  # else each start would take a number from drop path's
        )  # fmt: skip
        self.model.train()
        for images, labels in loader:
            loss = self._learn(images.to(self.device), labels.to(self.device))
            if self.step % save_every == 0 or self.step == chosen.steps:
                click.echo(f"step {self.step} of {chosen.steps}: loss {loss:.4f}")
                self._save(out / "last.pt")

    def _learn(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        self.schedule.step_update(self.step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.amp == "bf16"):
            summed = nn.functional.cross_entropy(self.model(images), labels, ignore_index=IGNORED, reduction="sum")
        loss = summed / (labels != IGNORED).sum().clamp_min(1)  # a crop may be without any label
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.step += 1
        return float(loss.detach())

    def test(self, scenes: Scenes, *, multi_scale: bool, workers: int) -> Figures:
        """Figures over all of `scenes`; ValueError where their classes are not those of the training."""
        if scenes.class_names != self.scenes.class_names:
            only_one = sorted({*scenes.class_names} ^ {*self.scenes.class_names})
            raise ValueError(
                f"{scenes.images[0]}: expected the {len(self.scenes.class_names)} classes of the training, found "
                f"{len(scenes.class_names)}; only one of the two has {only_one[:3]}; give scenes of the same classes"
            )
        whole = WholeScenes(scenes, self.settings.short_side_px, self.mean, self.std)
        loader = DataLoader(whole, batch_size=None, num_workers=workers)
        scales = SCALES if multi_scale else (1.0,)
        return evaluate(
            self.model, loader, len(scenes.class_names), self.settings.crop_px, scales=scales, mirrored=multi_scale,
            device=self.device,
        )  # fmt: skip

    def _save(self, path: Path) -> None:
        state = {
            "settings": asdict(self.settings), "step": self.step, "random": torch.get_rng_state(),
            "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
        }  # fmt: skip
        unfinished = path.with_suffix(".tmp")
        torch.save(state, unfinished)
        unfinished.replace(path)

    def _load(self, path: Path) -> None:
        if not path.is_file():
            return
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        given = asdict(self.settings)
        for name, stored in state["settings"].items():
            if given[name] != stored:
                raise click.ClickException(
                    f"{path}: {name}: expected {stored!r}, with which the run began, found {given[name]!r}; "
                    "give the same options or another OUT"
                )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        torch.set_rng_state(state["random"])
        click.echo(f"{path}: goes on from step {self.step}")


@click.command(help="Train on the scenes of DATA and test on those of --test; weights and figures go to OUT.")
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--test",
    "test_data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Default: DATA's validation split.",
)
@click.option("--model", default="deit_small_patch16_224", show_default=True, help="timm's name of the backbone.")
@click.option("--checkpoint", type=click.Path(exists=True, dir_okay=False), help="The student's weights.")
@click.option("--pretrained", is_flag=True, help="timm's own weights.")
@click.option("--level", default=-1, show_default=True, help="Which feature map of the backbone; -1: the last.")
@click.option("--width", default=256, show_default=True, help="Channels of the decoder.")
@click.option("--crop", "crop_px", default=512, show_default=True, help="Pixels.")
@click.option("--short-side", "short_side_px", default=512, show_default=True, help="Of whole images, pixels.")
@click.option("--steps", default=160_000, show_default=True)
@click.option("--batch-size", default=16, show_default=True)
@click.option("--lr", default=1e-3, show_default=True)
@click.option("--weight-decay", default=0.05, show_default=True)
@click.option("--layer-decay", default=0.65, show_default=True, help="Of the learning rate, per layer.")
@click.option("--warmup", default=1500, show_default=True, help="Steps, at most half of them.")
@click.option("--drop-path", default=0.1, show_default=True)
@click.option("--amp", type=click.Choice(["none", "bf16"]), default="none", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--multi-scale", is_flag=True, help="Test at six scales and mirrored.")
@click.option("--workers", default=4, show_default=True)
@click.option("--save-every", type=click.IntRange(1), default=1000, show_default=True, help="Steps.")
@click.option("--device", default="cpu", show_default=True)
def main(
    data: Path, out: Path, test_data: Path | None, multi_scale: bool, workers: int, save_every: int, device: str,
    **options: Any,
) -> None:  # fmt: skip
    """Train, test, print and write figures.json."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        training = Training(Settings(**options), read_scenes(data), torch.device(device))
        training.run(out, workers=workers, save_every=save_every)
        scenes = read_scenes(test_data) if test_data else read_scenes(data, "validation")
        found = training.test(scenes, multi_scale=multi_scale, workers=workers)
    except (FileNotFoundError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    words = {"mean_iou": found.mean_iou, "mean_accuracy": found.mean_accuracy, "pixel_accuracy": found.pixel_accuracy}
    (out / "figures.json").write_text(json.dumps({"settings": options, "multi_scale": multi_scale, **words}, indent=1))
    click.echo(", ".join(f"{name} {figure:.4f}" for name, figure in words.items()))


if __name__ == "__main__":
    main()
