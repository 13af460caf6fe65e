"""What maps cost on this machine, with this data: timm's loader with CutMix against the same with TokenMix."""

from __future__ import annotations

import resource
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from timm.data import FastCollateMixup, create_transform
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import ImageFolder

from tokenmix_loader._store import MapStore, open_store
from tokenmix_loader.collate import TokenMixCollate
from tokenmix_loader.dataset import MapDataset

INPUT_PX, GRID = 224, (14, 14)


class Cost(NamedTuple):
    """Of one image: wall-clock time and CPU time of all processes, in ms."""

    wall_ms: float
    cpu_ms: float


class BenchReport(NamedTuple):
    """Medians over the rounds; `epoch_s` are the seconds of an epoch over all images, `images` their number."""

    images: int
    without_maps: Cost
    with_maps: Cost

    @property
    def epoch_s(self) -> tuple[float, float]:
        """Without and with maps."""
        return tuple(self.images * cost.wall_ms / 1e3 for cost in self[1:])  # type: ignore[return-value]


def bench(
    images: Path,
    store: Path | MapStore,
    *,
    samples: int = 1024,
    batch: int = 128,
    workers: int = 4,
    rounds: int = 5,
    auto_augment: str = "rand-m9-mstd0.5",
) -> BenchReport:
    """Load `samples` images of a class folder, with and without maps in turn, `rounds` times after a warm-up.

    Decoding, DeiT's augmentation at 224 px, and batches mixed as timm and TokenMix mix them by default. Raises
    what `MapDataset` raises.
    """
    maps = open_store(store)
    plain, mapped = ImageFolder(str(images)), MapDataset(ImageFolder(str(images)), maps)
    chosen = np.random.default_rng(0).permutation(len(mapped))[:samples].tolist()
    batch = min(batch, len(chosen))
    mixup: dict[str, Any] = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "num_classes": 1 + int(maps.labels.max())}
    collates = FastCollateMixup(**mixup), TokenMixCollate(maps, GRID, **mixup)
    loaders = []
    for dataset, collate in zip((plain, mapped), collates, strict=True):
        dataset.transform = create_transform(INPUT_PX, True, auto_augment=auto_augment, use_prefetcher=True)
        loaders.append(
            DataLoader(Subset(dataset, chosen), batch, collate_fn=collate, num_workers=workers, drop_last=True)
        )
    found = [[_pass(loader) for loader in loaders] for _ in range(rounds + 1)][1:]
    costs = (Cost(*map(statistics.median, zip(*turns, strict=True))) for turns in zip(*found, strict=True))
    return BenchReport(len(mapped), *costs)


def _pass(loader: DataLoader[Any]) -> Cost:
    started, busy = time.perf_counter(), _cpu_s()
    count = sum(len(images) for images, _ in loader)
    return Cost(1e3 * (time.perf_counter() - started) / count, 1e3 * (_cpu_s() - busy) / count)


def _cpu_s() -> float:
    """Of this process and of the workers that have ended, which a pass's have."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
