"""The loops of docs/loops.md run as they stand there, but for the frameworks that are not installed here."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.loss import SoftTargetCrossEntropy
from torch.utils.data import DataLoader, default_collate
from torchvision import transforms as tv
from torchvision.datasets import ImageFolder

from tests.tokenmix_loader.conftest import StoreMaker, keys_and_labels
from tokenmix_loader import MapDataset, MapStore, MapTarget, TokenMix, TokenMixCollate

PAGE = Path(__file__).parents[3] / "docs" / "loops.md"


def block_of(title: str) -> str:
    """The first block of Python under a title."""
    found = re.search(rf"## {title}\n.*?```python\n(.*?)```", PAGE.read_text(), re.S)
    assert found, title
    return found.group(1)


@pytest.fixture
def store(images: Path, make_store: StoreMaker) -> MapStore:
    return make_store(keys_and_labels(images))


def tiny() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(12, 3))


def test_the_plain_loop_trains_on_fewer_images_than_a_batch(images: Path, store: MapStore) -> None:
    names: dict[str, Any] = {"num_classes": 3, "seed": 0, "rank": 0, "device": "cpu", "model": tiny()}
    block = block_of("Plain PyTorch").replace('"maps"', repr(str(store._folder))).replace('"images"', repr(str(images)))
    exec(block.replace("num_workers=8", "num_workers=0"), names)
    assert names["targets"].shape == (30, 3)
    assert torch.isfinite(names["loss"])


def test_lightning_moves_labels_and_leaves_map_targets(images: Path, store: MapStore) -> None:
    names: dict[str, Any] = {"LightningModule": torch.nn.Module, "SoftTargetCrossEntropy": SoftTargetCrossEntropy}
    exec("import numpy as np, torch\n" + block_of("Lightning"), names)
    logged: dict[str, torch.Tensor] = {}
    student = names["Student"]()
    student.model, student.log = tiny(), logged.__setitem__
    student.tokenmix = TokenMix(store, 3, (6, 6), rng=names["np"].random.default_rng(0), min_tokens=4)
    pixels = tv.Compose([tv.Resize((48, 48)), tv.ToTensor()])
    train = default_collate([MapDataset(ImageFolder(images), store, pixels)[i] for i in range(4)])
    validation = default_collate([ImageFolder(images, pixels)[i] for i in range(4)])
    for batch, on_meta in ((train, False), (validation, True)):
        moved, targets = student.transfer_batch_to_device(batch, torch.device("meta"), 0)
        assert moved.is_meta
        assert (targets.label if isinstance(targets, MapTarget) else targets).is_meta is on_meta
    assert torch.isfinite(student.training_step(train, 0))
    student.validation_step(validation, 0)
    assert torch.isfinite(logged["val_loss"])


def test_hugging_face_s_collator_and_model(images: Path, store: MapStore) -> None:
    names: dict[str, Any] = {
        "store": store, "num_classes": 3, "TokenMixCollate": TokenMixCollate, "torch": torch,
        "SoftTargetCrossEntropy": SoftTargetCrossEntropy,
    }  # fmt: skip
    before, trainer, _ = block_of("Hugging Face Trainer").partition("arguments = TrainingArguments(")
    assert trainer
    exec(before, names)
    pixels = tv.Compose([tv.Resize((56, 56)), tv.PILToTensor()])
    loader = DataLoader(MapDataset(ImageFolder(images), store, pixels), 4, collate_fn=names["data_collator"])
    found = names["Student"](tiny(), (0.5,) * 3, (0.5,) * 3)(**next(iter(loader)))
    assert torch.isfinite(found["loss"])
    assert found["logits"].shape == (4, 3)
