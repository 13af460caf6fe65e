"""The smallest training script made of the calls of timm's own train.py; what TokenMix changes is marked.

    python recipes/train/minimal.py IMAGES MAPS --model deit_small_patch16_224 --epochs 300 --batch-size 1024 --lr 1e-3

IMAGES is a class folder, MAPS the store that `tokenmix extract IMAGES MAPS` left. Needs an installed tokenmix-maps
and nothing else of the repository. One process; no evaluation, logging or resuming: those are in train.py, beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import timm
import torch
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import random_seed

from tokenmix_loader import MapDataset, TokenLabelLoss, TokenMixCollate  # TokenMix: one import


@click.command(help="Train a vision transformer on IMAGES with TokenMix targets from MAPS.")
@click.argument("images", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("maps", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--model", "name", default="deit_small_patch16_224", show_default=True)
@click.option("--num-classes", type=int, default=1000, show_default=True)
@click.option("--supervision", type=click.Choice(["tokenmix", "area", "relabel", "tokenlabeling"]), default="tokenmix")
@click.option("--epochs", type=int, default=300, show_default=True)
@click.option("--mixup-off-epoch", type=int, default=0, help="Stop mixing at this epoch; 0: never.")
@click.option("--batch-size", type=int, default=256, show_default=True)
@click.option("--lr", type=float, default=5e-4, show_default=True)
@click.option("--workers", type=int, default=4, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default="model.pt", show_default=True)
def main(
    images: Path, maps: Path, name: str, num_classes: int, supervision: str, epochs: int, mixup_off_epoch: int,
    batch_size: int, lr: float, workers: int, seed: int, out: Path,
) -> None:  # fmt: skip
    """DeiT's augmentation and AdamW."""
    random_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = timm.create_model(name, num_classes=num_classes, drop_path_rate=0.1).to(device)
    config = resolve_data_config({}, model=model)
    mixup_args: dict[str, Any] = {"mixup_alpha": 0.8, "label_smoothing": 0.1, "num_classes": num_classes}

    dataset = create_dataset("", root=str(images), is_training=True)
    dataset = MapDataset(dataset, maps)  # TokenMix: images know their maps
    grid = tuple(side // 16 for side in config["input_size"][1:])  # of masks: tokens of 16 px, as DeiT's
    collate_fn = TokenMixCollate(
        maps, grid, supervision=supervision, **mixup_args
    )  # was FastCollateMixup(**mixup_args)
    loader = create_loader(
        dataset, config["input_size"], batch_size, is_training=True, collate_fn=collate_fn, num_workers=workers,
        auto_augment="rand-m9-mstd0.5-inc1", interpolation="random", re_prob=0.25, re_mode="pixel",
        mean=config["mean"], std=config["std"], pin_memory=device.type == "cuda", device=device,
    )  # fmt: skip

    if not len(loader):
        raise click.UsageError(f"--batch-size {batch_size}: expected at most the {len(dataset)} images of {images}")

    by_token = supervision == "tokenlabeling"
    loss_fn = TokenLabelLoss() if by_token else SoftTargetCrossEntropy()
    optimizer = create_optimizer_v2(model, opt="adamw", lr=lr, weight_decay=0.05)
    scheduler, epochs = create_scheduler_v2(optimizer, num_epochs=epochs, warmup_epochs=min(5, epochs // 2))
    for epoch in range(epochs):
        if mixup_off_epoch and epoch >= mixup_off_epoch:
            loader.mixup_enabled = False
        total = 0.0
        for pixels, target in loader:
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                loss = loss_fn(*class_and_tokens(model, pixels), target) if by_token else loss_fn(model(pixels), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        scheduler.step(epoch + 1)
        click.echo(f"epoch {epoch}: loss {total / len(loader):.4f}")
    torch.save(model.state_dict(), out)


def class_and_tokens(model: Any, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [B, K] of a vision transformer, and [B, T, K] of its tokens through the same head."""
    features = model.forward_features(pixels)
    return model.forward_head(features), model.head(model.fc_norm(features[:, model.num_prefix_tokens :]))


if __name__ == "__main__":
    main()
