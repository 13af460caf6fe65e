from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import ImageDataset
from torch.utils.data import ConcatDataset, Subset
from torchvision import transforms as tv
from torchvision.datasets import ImageFolder

from store import StoreMismatch
from tests.tokenmix_loader.conftest import StoreMaker, keys_and_labels
from tests.tokenmix_loader.join.datasets import CROP, Pairs, Targets
from tokenmix_loader import MapDataset


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda root: {"dataset": Pairs(root)}, "found Pairs; pass keys"),
        (lambda root: {"dataset": Pairs(root), "keys": ["a"] * 30}, "found neither `labels` nor `targets`"),
        (lambda root: {"dataset": Targets(root), "keys": ["a"]}, "found 30 images, 1 keys, 30 labels"),
        (lambda root: {"dataset": ImageFolder(root, target_transform=hash)}, "target_transform: expected None"),
        (lambda root: {"dataset": ImageFolder(root), "missing": "skip"}, "missing: expected one of error, area"),
    ],
)
def test_what_does_not_fit_is_refused(
    images: Path, make_store: StoreMaker, build: Callable[[Path], dict[str, Any]], message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        MapDataset(store=make_store(keys_and_labels(images)), **build(images))


def test_pairs_must_be_of_images(images: Path, make_store: StoreMaker) -> None:
    rows = keys_and_labels(images)
    folder = ImageFolder(images, loader=lambda _: torch.zeros(3, 8, 8))
    for settings in ({}, {"keys": [*rows]}):
        dataset = MapDataset(folder, make_store(rows), **settings)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="expected a PIL image, found Tensor; give the transform to MapDataset"):
            dataset[0]


@pytest.mark.parametrize(
    "wrap",
    [lambda folder: folder, lambda folder: Subset(folder, range(len(folder))), lambda folder: ConcatDataset([folder])],
)
def test_a_transform_that_is_not_traced_is_refused(
    images: Path, make_store: StoreMaker, wrap: Callable[[ImageFolder], Any]
) -> None:
    """The dataset would flip what the map shows."""
    rows = keys_and_labels(images)
    dataset = wrap(ImageFolder(images, tv.RandomHorizontalFlip(1)))
    with pytest.raises(ValueError, match=r"ImageFolder.transform: expected None, found one"):
        MapDataset(dataset, make_store(rows), keys=[*rows], labels=[*rows.values()])


def test_a_joint_transform_of_image_and_label_is_refused_too(images: Path, make_store: StoreMaker) -> None:
    """torchvision's detection sets have `transforms` in the place of `transform`."""
    pairs = Targets(images)
    pairs.transforms = lambda image, label: (image, label)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"Targets.transform: expected None, found one"):
        MapDataset(pairs, make_store(keys_and_labels(images)), keys=[*keys_and_labels(images)])


@pytest.mark.parametrize("kind", [ImageFolder, ImageDataset])
def test_a_subclass_that_loads_in_its_own_way_is_refused(images: Path, make_store: StoreMaker, kind: type[Any]) -> None:
    class Cropped(kind):  # type: ignore[misc]
        def __getitem__(self, index: int) -> Any:
            image, label = super().__getitem__(index)
            return image.crop((0, 0, 4, 4)), label

    with pytest.raises(TypeError, match="expected .*'s own way of loading, found another in Cropped"):
        MapDataset(Cropped(str(images)), make_store(keys_and_labels(images)))


def test_labels_are_whole_numbers(images: Path, make_store: StoreMaker) -> None:
    rows = keys_and_labels(images)
    pairs = Subset(ImageFolder(images), range(len(rows)))
    for labels, found in (([0.5] * 30, r"float64 \[30\]"), (np.eye(30, dtype=int), r"int64 \[30, 30\]")):
        with pytest.raises(TypeError, match=f"expected one whole number per label, found {found}"):
            MapDataset(pairs, make_store(rows), keys=[*rows], labels=labels)  # type: ignore[arg-type]


def test_labels_are_those_that_image_folder_gives(images: Path, make_store: StoreMaker) -> None:
    folder = ImageFolder(str(images))
    folder.samples = [(path, (label + 1) % 3) for path, label in folder.samples]  # `targets` still has the old ones
    with pytest.raises(StoreMismatch, match="labels"):
        MapDataset(folder, make_store(keys_and_labels(images)), CROP)


@pytest.mark.parametrize("kind", [ImageFolder, ImageDataset])
def test_an_unreadable_training_image_is_never_another_one(
    tmp_path: Path, images: Path, make_store: StoreMaker, kind: type[Any]
) -> None:
    root = tmp_path / "torn"
    for key in keys_and_labels(images):
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes((images / key).read_bytes())
    torn = root / "ant" / "img3.jpg"
    torn.write_bytes(torn.read_bytes()[:900])
    store = make_store(keys_and_labels(images))
    dataset = MapDataset(kind(str(root)), store)
    failures = []
    for i in range(len(dataset)):
        try:
            _, target = dataset[i]
        except OSError as error:
            failures.append(str(error))
        else:
            assert store.keys[int(target.row)] != "ant/img3.jpg"
    assert len(failures) == 1
    assert "ant/img3.jpg: expected an image, found" in failures[0]


def test_a_reader_of_timm_s_that_lists_no_samples_is_refused(images: Path, make_store: StoreMaker) -> None:
    """As its readers of streams are."""
    dataset = ImageDataset(str(images), reader=[])
    with pytest.raises(TypeError, match="expected a timm reader that lists its samples, found list; pass keys"):
        MapDataset(dataset, make_store(keys_and_labels(images)))


def test_timm_s_image_mode_is_kept(images: Path, make_store: StoreMaker) -> None:
    rows = keys_and_labels(images)
    dataset = MapDataset(ImageDataset(str(images), input_img_mode="L"), make_store(rows))
    image, target = dataset[0]
    with Image.open(images / [*rows][int(target.row)]) as encoded:
        assert image == encoded.convert("L")
