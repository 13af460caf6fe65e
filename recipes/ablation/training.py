"""One run: a student, an arm and a seed, from random weights to top-1 on the test images.

The seed alone decides the weights at the start, the order of images and their crops, whatever the arm does, so that
arms of one seed differ by nothing but the arm.
"""

# Not `recipes.train`: it decodes every file anew, validates and saves in every epoch, which is right for one student
# but takes half as long again for hundreds of small ones. Here all is in memory; a kill can cost a few minutes.

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as tv
from torchvision.transforms import InterpolationMode

from extract.images import list_images
from recipes.ablation.arms import Arm
from recipes.ablation.data import Data
from recipes.small_students import PATCH_PX, default_cfgs
from recipes.train.data import SeededImages
from recipes.train.students import WithTokens
from tokenmix_loader import MapDataset, MapStore, TokenLabelLoss, TokenMix
from tokenmix_loader.batch import Grid

TO_TENSOR: Final = (tv.ToTensor(), tv.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))


@dataclass(frozen=True)
class Schedule:
    """How long and how fast students learn: AdamW, one cycle."""

    epochs: int = 200
    batch_size: int = 50
    weight_decay: float = 0.05


@dataclass(frozen=True)
class Student:
    """`pixels`: sides of its input; `has_tokens`: at its end, as many as its masks have; `lr`: the highest of a run."""

    name: str
    pixels: int
    has_tokens: bool
    lr: float

    @property
    def grid(self) -> Grid:
        """Tokens of its masks, the same for all students of one size."""
        return self.pixels // PATCH_PX, self.pixels // PATCH_PX

    def fits(self, arm: Arm) -> bool:
        """Whether it can be trained like this."""
        return self.has_tokens or not arm.by_token


def _student(name: str, config: Mapping[str, Any]) -> Student:
    has_tokens = "fixed_input_size" in config
    # 1e-3 left the CNN at a higher loss; 2e-3 made the transformer no better (600 images, no mixing, one seed).
    return Student(name, config["input_size"][1], has_tokens, 1e-3 if has_tokens else 4e-3)


STUDENTS: Final = {name: _student(name, config) for name, config in default_cfgs.items()}


class Pictures(Dataset[tuple[Image.Image, int]]):
    """Decoded images of a class folder, with `keys` and `targets` as MapDataset asks for them."""

    def __init__(self, root: Path):
        listed = list_images(root)
        self.root, self.keys, self.targets = root, list(listed.keys), [int(label) for label in listed.labels]
        self.classes = len(listed.class_names)
        self.images = [Image.open(root / key).convert("RGB") for key in self.keys]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self.images[index], self.targets[index]


class Trained(NamedTuple):
    """`history`: a row for some epochs, at least the last: epoch, mean loss, top-1 (a share)."""

    model: nn.Module
    history: list[dict[str, Any]]


def train(data: Data, student: Student, arm: Arm, seed: int, schedule: Schedule, device: str = "cpu") -> Trained:
    """All epochs. Raises StoreError where a store does not suit the images or the arm."""
    pictures, store = Pictures(data.train / "images"), MapStore(data.store(arm.store))
    test = [part.to(device) for part in test_batch(Pictures(data.test / "images"), student.pixels)]
    model = initial_student(student.name, pictures.classes, seed).to(device)
    network = WithTokens(model, student.grid) if arm.by_token else model
    rng, settings = np.random.default_rng(seed), arm.mixing_on(student.grid)
    mixing = TokenMix(store, pictures.classes, student.grid, rng=rng, **settings)
    images = training_images(pictures, store, seed, student.pixels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=student.lr, weight_decay=schedule.weight_decay, foreach=True)
    updates = schedule.epochs * (len(pictures) // schedule.batch_size)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, student.lr, total_steps=updates)
    history = []
    for epoch in range(schedule.epochs):
        losses = []
        for pixels, targets in batches(images, len(pictures), schedule.batch_size, seed, epoch):
            pixels = pixels.to(device, memory_format=torch.channels_last)
            mixed, dense = mixing(pixels, targets.to(device))
            loss = loss_of(arm, network(mixed), dense)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            rate.step()
            losses.append(loss.detach())
        if (epoch + 1) % max(1, schedule.epochs // 4) == 0 or epoch + 1 == schedule.epochs:
            history.append({"epoch": epoch + 1, "loss": _finite(losses), "top1": top1(model, *test)})
    return Trained(model, history)


def initial_student(name: str, classes: int, seed: int) -> nn.Module:
    """Random weights that follow from the seed."""
    torch.manual_seed(seed)
    model: nn.Module = timm.create_model(name, num_classes=classes)
    return model.to(memory_format=torch.channels_last)


def training_images(pictures: Pictures, store: MapStore, seed: int, pixels: int) -> SeededImages:
    """DeiT's crop and flip, gentler in scale for small images, and a jitter of brightness."""
    steps = (
        tv.RandomResizedCrop(pixels, scale=(0.35, 1.0), interpolation=InterpolationMode.BILINEAR),
        tv.RandomHorizontalFlip(),
        tv.ColorJitter(brightness=0.3),
        *TO_TENSOR,
    )
    joined = MapDataset(pictures, store, tv.Compose(steps), keys=pictures.keys, root=pictures.root)
    return SeededImages(joined, range(pictures.classes), seed)


def batches(images: SeededImages, count: int, size: int, seed: int, epoch: int) -> Iterable[Any]:
    """(pixels [B, 3, H, W], MapTarget) of one epoch; images that fill no batch are left for another epoch."""
    order = [(epoch, index) for index in np.random.default_rng([seed, epoch]).permutation(count).tolist()]
    # With a generator of its own the loader draws nothing from torch's.
    return DataLoader(images, size, sampler=order, drop_last=True, generator=torch.Generator())


def test_batch(pictures: Pictures, pixels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All test images, whole and squashed, float32 [N, 3, H, W], and their labels [N]."""
    whole = tv.Compose([tv.Resize((pixels, pixels)), *TO_TENSOR])
    return torch.stack([whole(image) for image in pictures.images]), torch.tensor(pictures.targets)


def loss_of(arm: Arm, logits: Any, dense: Any) -> torch.Tensor:
    """Of logits [B, K] and dense targets; with `by_token` of class and token logits."""
    if arm.by_token:
        loss: torch.Tensor = TokenLabelLoss()(*logits, dense)
    elif arm.loss == "bce":
        loss = BinaryCrossEntropy(smoothing=0)(logits, dense)
    else:
        loss = SoftTargetCrossEntropy()(logits, dense)
    return loss


@torch.inference_mode()
def top1(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of images whose class comes first."""
    model.eval()
    parts = zip(torch.split(images, 200), torch.split(labels, 200), strict=True)
    hits = sum(int((model(part).argmax(1) == truth).sum()) for part, truth in parts)
    model.train()
    return hits / len(labels)


def _finite(losses: list[torch.Tensor]) -> float | None:
    """The mean; None, which JSON has, where a run diverged: such a run counts as it is."""
    mean = float(torch.stack(losses).double().mean())
    return round(mean, 4) if math.isfinite(mean) else None
