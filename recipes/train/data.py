"""Images, maps and validation images, in batches that depend on neither processes nor earlier epochs."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_dataset, create_transform
from timm.data.loader import PrefetchLoader
from torch.utils.data import DataLoader, Dataset, Sampler

from extract.images import list_images
from extract.images.classes import match_classes
from recipes.train.processes import Processes
from recipes.train.settings import Settings, TrainingError
from recipes.train.students import Student
from tokenmix_loader import MapDataset, MapStore, TokenMixCollate

_NO_LIMIT = 1 << 31


@dataclass(frozen=True)
class Classes:
    """`names` [K] of the images' folders; `outputs` [K]: which output of the student each of them is."""

    names: Sequence[str]
    outputs: Sequence[int]
    count: int  # of the student's outputs


def find_classes(store: MapStore, class_map: Path | None, settings: Settings) -> Classes:
    """The store's classes, in its order, or as `class_map` says: a line each, or rows `name,output`.

    Raises TrainingError for fewer outputs than classes, ImagesError for a class map that lacks one.
    """
    dataset: Any = store.header.dataset
    names: list[str] = list(dataset["class_names"])
    if class_map is None:
        outputs: Sequence[int] = range(len(names))
    elif settings.supervision in ("relabel", "tokenlabeling"):
        raise TrainingError(
            f"--class-map: expected none with {settings.supervision}, whose targets are in the order of the maps' own "
            f"classes, found {class_map}; leave it out"
        )
    else:
        outputs = match_classes(names, settings.num_classes or _NO_LIMIT, class_map).outputs
    needed = max(outputs) + 1
    if settings.num_classes is not None and settings.num_classes < needed:
        raise TrainingError(
            f"--num-classes: expected at least {needed}, the classes of {store}, found {settings.num_classes}; leave "
            "it out"
        )
    return Classes(names, outputs, settings.num_classes or needed)


class SeededImages(Dataset[Any]):
    """Images by (epoch, index), each augmented by random numbers of its own, and with the student's class.

    So an epoch is the same in any number of processes, and after any break.
    """

    def __init__(self, images: MapDataset, outputs: Sequence[int], seed: int) -> None:
        self.images, self.outputs, self.seed = images, outputs, seed

    def __getitem__(self, place: tuple[int, int]) -> Any:
        """Image and target."""
        with own_chance(self.seed, *place):
            image, target = self.images[place[1]]
        label: Any = self.outputs[int(target.label)]
        return image, target._replace(label=label)


@contextmanager
def own_chance(*numbers: int) -> Iterator[None]:
    """All three global generators of the CPU, which timm's transforms draw from, give what follows from `numbers`."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    first, *more = np.random.SeedSequence(numbers).generate_state(5).tolist()
    random.seed(first)
    np.random.seed(more)  # noqa: NPY002
    torch.default_generator.manual_seed(first)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) for one of several processes: `epoch` says which shuffling.

    Each batch of `size` is split evenly among processes, each of which takes its share in `accumulate` parts; images
    that fill no batch are left for another epoch.
    """

    def __init__(self, images: int, settings: Settings, processes: Processes) -> None:
        parts = processes.count * settings.accumulate
        if settings.batch_size % parts:
            raise TrainingError(
                f"--batch-size: expected a multiple of {parts}, for {processes.count} processes with "
                f"{settings.accumulate} parts each, found {settings.batch_size}; change it or --accumulate"
            )
        self.updates = images // settings.batch_size
        if not self.updates:
            raise TrainingError(
                f"--batch-size: expected at most the {images} images, found {settings.batch_size}; choose a smaller one"
            )
        self.epoch, self.seed = 0, settings.seed
        self._images, self._part, self._processes = images, settings.batch_size // parts, processes
        self._batches = self.updates * settings.accumulate

    def __len__(self) -> int:
        """Batches of this process in an epoch."""
        return self._batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Each batch."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self._images)
        for batch in range(self._batches):
            start = (batch * self._processes.count + self._processes.rank) * self._part
            yield [(self.epoch, index) for index in order[start : start + self._part].tolist()]


@dataclass(frozen=True)
class TrainingData:
    """Batches on the device, mixed: (images, targets)."""

    loader: Any
    batches: EpochBatches
    collate: TokenMixCollate

    def of_epoch(self, epoch: int, *, mixed: bool) -> Any:
        """The loader, to be iterated once."""
        self.batches.epoch = epoch
        self.collate.set_epoch(epoch)
        self.collate.mixup_enabled = mixed
        return self.loader


def open_training(
    images: Path, store: MapStore, classes: Classes, student: Student, settings: Settings, processes: Processes,
    workers: int,
) -> TrainingData:  # fmt: skip
    """timm's dataset, transform and prefetcher, as create_loader puts them together, around batches of our own."""
    dataset = MapDataset(create_dataset("", root=str(images), is_training=True), store, missing=settings.missing)
    data = student.data
    dataset.transform = _transform(data, settings)
    tokens = student.grid[0] * student.grid[1]
    batches = EpochBatches(len(dataset), settings, processes)  # first: a collate that nobody asks says so at the end
    try:
        collate = TokenMixCollate(store, student.grid, num_classes=classes.count, **settings.mixing(tokens))
    except ValueError as error:  # a setting that does not suit the kind of mask
        raise TrainingError(str(error)) from error
    seeded = SeededImages(dataset, classes.outputs, settings.seed)
    plain: Any = DataLoader(seeded, batch_sampler=batches, collate_fn=collate, **_loading(workers, processes))
    loader = PrefetchLoader(
        plain, data["mean"], data["std"], device=processes.device, re_prob=settings.reprob, re_mode="pixel"
    )
    return TrainingData(loader, batches, collate)


def _transform(data: Mapping[str, Any], settings: Settings) -> Any:
    """timm's. Raises TrainingError."""
    try:
        return create_transform(
            data["input_size"], is_training=True, use_prefetcher=True, mean=data["mean"], std=data["std"],
            auto_augment=None if settings.aa == "none" else settings.aa, color_jitter=0.4, hflip=settings.hflip,
            scale=settings.crop_scale, interpolation="bicubic",
        )  # fmt: skip
    except (AssertionError, ValueError) as error:
        raise TrainingError(
            "--aa: expected none, or what timm's create_transform takes as auto_augment, such as "
            f"rand-m9-mstd0.5-inc1, found {settings.aa!r} ({error}); choose another"
        ) from error


def _loading(workers: int, processes: Processes) -> dict[str, Any]:
    # With a generator of its own a loader draws nothing from torch's, which would then depend on when workers start.
    return {
        "num_workers": workers, "persistent_workers": workers > 0, "generator": torch.Generator(),
        "pin_memory": processes.device.type == "cuda",
    }  # fmt: skip


class ListedImages(Dataset[Any]):
    """(image, output) of the validation; an image that cannot be read ends the run instead of being replaced."""

    def __init__(self, root: Path, classes: Classes, transform: Any) -> None:
        self._listed, self._transform = list_images(root), transform
        number = dict(zip(classes.names, classes.outputs, strict=True))
        unknown = [name for name in self._listed.class_names if name not in number]
        if unknown:
            raise TrainingError(
                f"--val {root}: expected classes of the training images, such as {classes.names[0]!r}, found "
                f"{len(unknown)} others, such as {unknown[0]!r}; give the same dataset's validation images"
            )
        self._outputs = [number[name] for name in self._listed.class_names]

    def __len__(self) -> int:
        """Number of images."""
        return len(self._listed)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Float32 [3, H, W] and the output that is right; OSError for an image that cannot be read."""
        try:
            with self._listed.open(index) as file, Image.open(file) as image:
                pixels = image.convert("RGB")
        except OSError as error:
            raise OSError(f"--val {self._listed.keys[index]}: expected an image, found {error}; mend it") from error
        return self._transform(pixels), self._outputs[int(self._listed.labels[index])]


def open_validation(
    root: Path, classes: Classes, student: Student, settings: Settings, processes: Processes, workers: int
) -> Any:
    """This process's share of the images, each image in exactly one of them."""
    data = student.data
    names = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
    images = ListedImages(root, classes, create_transform(**{name: data[name] for name in names}))
    own = range(processes.rank, len(images), processes.count)
    size = max(1, settings.batch_size // (processes.count * settings.accumulate))
    return DataLoader(images, size, sampler=own, **_loading(workers, processes))
