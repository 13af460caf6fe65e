"""Datasets that the tests of joining share."""

import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import transforms as tv

from tests.tokenmix_loader.conftest import keys_and_labels

CROP = tv.Compose([tv.RandomResizedCrop(24), tv.RandomHorizontalFlip(), tv.ToTensor()])


class Pairs(torch.utils.data.Dataset[tuple[Image.Image, int]]):
    """Somebody's own dataset."""

    def __init__(self, root: Path, keys: Iterable[str] | None = None) -> None:
        rows = keys_and_labels(root)
        self.rows = rows if keys is None else {key: rows[key] for key in keys}
        self.root = root

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        key = [*self.rows][index]
        return Image.open(self.root / key).convert("RGB"), self.rows[key]


class Targets(Pairs):
    """The same with torchvision's attribute."""

    @property
    def targets(self) -> list[int]:
        return [*self.rows.values()]


def shuffled(rows: dict[str, int]) -> dict[str, int]:
    keys = np.random.default_rng(0).permutation([*rows])
    return {str(key): rows[str(key)] for key in keys}


def users_warnings(caught: Iterable[warnings.WarningMessage]) -> list[warnings.WarningMessage]:
    """Without files that other tests left open: Python may notice these anywhere."""
    return [warning for warning in caught if issubclass(warning.category, UserWarning)]
