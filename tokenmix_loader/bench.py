"""What maps cost on this machine, with this data: timm's loader with CutMix against the same with TokenMix."""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from timm.data import FastCollateMixup, create_transform
from torch.utils.data import DataLoader, Dataset, Subset

from tokenmix_loader.join.dataset import MapDataset
from tokenmix_loader.join.original_images import Images, Ints, read_photograph, require_readable
from tokenmix_loader.mixing.collate import TokenMixCollate
from tokenmix_loader.store_access import STATUS_OK, MapStore, StoreError

INPUT_PX, GRID = 224, (14, 14)
_KINDS = ("without maps", "with maps", "cold maps")


class Cost(NamedTuple):
    """Wall-clock time and CPU time of all processes for one image, in ms."""

    wall_ms: float
    cpu_ms: float


class BenchReport(NamedTuple):
    """Medians over the rounds; `images` is the number of images in an epoch.

    `with_cold_maps`: no page of the store is in memory when a pass begins.
    """

    images: int
    without_maps: Cost
    with_maps: Cost
    with_cold_maps: Cost

    @property
    def epoch_s(self) -> tuple[float, ...]:
        """Seconds of an epoch over all images: without maps, with maps, with cold maps."""
        return tuple(self.images * cost.wall_ms / 1e3 for cost in self[1:])

    def lines(self) -> Iterator[str]:
        """For a person: speed and CPU time of each kind of pass, and what maps add to those of the first."""
        for name, epoch_s, (wall_ms, cpu_ms) in zip(_KINDS, self.epoch_s, self[1:], strict=True):
            yield f"{name:14}{1e3 / wall_ms:8.0f} img/s   epoch {epoch_s:8.1f} s   CPU {cpu_ms:.3f} ms/img"
        warm, cold = (after / self.epoch_s[0] for after in self.epoch_s[1:])
        cpu = self.with_maps.cpu_ms / self.without_maps.cpu_ms
        yield f"{'ratio':14}epoch {warm:.4f}, {cold:.4f} when cold   CPU {cpu:.4f}"


def bench(
    images: Images,
    store: Path,
    *,
    samples: int = 1024,
    batch: int = 128,
    workers: int = 4,
    rounds: int = 5,
    auto_augment: str = "rand-m9-mstd0.5",
) -> BenchReport:
    """Load `samples` of the images `rounds` times after a warm-up: without maps, with maps, and with cold maps.

    Includes decoding, DeiT's augmentation at 224 px, and mixing as timm and TokenMix mix by default; leaves out images
    that were unreadable at extraction. Where the system cannot drop a file's pages from memory (macOS), cold maps are
    warm. `batch` is even, for timm mixes images in pairs. Raises what `MapDataset` raises, StoreError for less than two
    readable images, OSError for one that cannot be decoded any more.
    """
    transform = create_transform(INPUT_PX, True, auto_augment=auto_augment, use_prefetcher=True)
    plain = _Photographs(images, transform)
    mapped = MapDataset(_Photographs(images), store, transform, keys=images.keys, labels=images.labels)
    readable, classes = _readable_and_classes(images, store)
    chosen = np.random.default_rng(0).permutation(readable)[:samples].tolist()
    if len(chosen) < 2:
        raise StoreError(f"{store}: expected two images or more, which are mixed, found one; measure a larger store")
    mixup: dict[str, Any] = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "num_classes": classes}

    def load(dataset: Dataset[Any], make_collate: Callable[[], Any]) -> Cost:
        carried = _FaultsCarried(Subset(dataset, chosen), make_collate())
        loader = DataLoader(
            carried,
            min(batch, len(chosen) // 2 * 2),
            collate_fn=carried.collate_or_fault,
            num_workers=workers,
            drop_last=True,
        )
        return _pass(loader)

    def with_cold_maps() -> Cost:
        drop_page_cache(store)
        return load(mapped, lambda: TokenMixCollate(store, GRID, **mixup))

    kinds: tuple[Callable[[], Cost], ...] = (
        lambda: load(plain, lambda: FastCollateMixup(**mixup)),
        lambda: load(mapped, lambda: TokenMixCollate(store, GRID, **mixup)),
        with_cold_maps,
    )
    found = [[run() for run in kinds] for _ in range(rounds + 1)][1:]
    costs = (Cost(*map(statistics.median, zip(*turns, strict=True))) for turns in zip(*found, strict=True))
    return BenchReport(len(mapped), *costs)


@dataclass(frozen=True)
class _FaultsCarried(Dataset[Any]):
    """What a loading process raises comes back as a value: torch would put a class's name and a traceback before it."""

    dataset: Subset[Any]
    collate: Callable[[Any], Any]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: list[int]) -> Any:
        try:
            return [self.dataset[index] for index in indices]
        except Exception as fault:
            return fault

    def collate_or_fault(self, samples: Any) -> Any:
        if isinstance(samples, Exception):
            return samples
        try:
            return self.collate(samples)
        except Exception as fault:
            return fault


@dataclass(frozen=True)
class _Photographs(Dataset[tuple[Any, int]]):
    """The images with their labels, augmented where they go to no `MapDataset`."""

    images: Images
    augment: Callable[[Image.Image], Any] | None = None

    def __len__(self) -> int:
        return len(self.images.keys)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        photograph, _ = read_photograph(self.images, index)
        return self.augment(photograph) if self.augment else photograph, int(self.images.labels[index])


def _readable_and_classes(images: Images, store: Path) -> tuple[Ints, int]:
    """The images that were readable at extraction, and the number of classes.

    The store is closed on return: pages that this process has mapped could not be dropped from memory.
    """
    maps = MapStore(store)
    unreadable = {maps.keys[int(row)] for row in np.flatnonzero(maps.statuses != STATUS_OK)}
    readable = np.array([index for index, key in enumerate(images.keys) if key not in unreadable], np.int64)
    return require_readable(maps, readable), 1 + int(maps.labels.max())


def drop_page_cache(store: Path) -> None:
    """Ask the system to drop the store's pages from its cache; those that a process has mapped stay."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in Path(store).iterdir():
        handle = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def _pass(loader: DataLoader[Any]) -> Cost:
    started, busy, count = time.perf_counter(), _cpu_s(), 0
    for batch in loader:
        if isinstance(batch, Exception):
            raise batch
        count += len(batch[0])
    return Cost(1e3 * (time.perf_counter() - started) / count, 1e3 * (_cpu_s() - busy) / count)


def _cpu_s() -> float:
    """CPU time of this process and of workers that have ended; after a pass, all have."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
