import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import ImageDataset, create_transform
from torch.utils.data import DataLoader, default_collate
from torchvision import transforms as tv
from torchvision.datasets import ImageFolder

from tests.tokenmix_loader.conftest import CLASSES, StoreMaker, keys_and_labels
from tests.tokenmix_loader.join.datasets import CROP, Pairs, Targets, shuffled
from tokenmix_loader import MapDataset, MapTarget, UntraceableTransform


def tarred(root: Path, target: Path) -> Path:
    with tarfile.open(target, "w") as tar:
        for path in sorted(root.glob("*/*")):
            tar.add(path, path.relative_to(root).as_posix())
    return target


@pytest.mark.parametrize("order", [dict, shuffled])
@pytest.mark.parametrize(
    "build",
    [
        lambda root, _tmp: (ImageFolder(root), {}),
        lambda root, _tmp: (ImageFolder(str(root)), {}),
        lambda root, _tmp: (ImageDataset(str(root)), {}),
        lambda root, tmp: (ImageDataset(str(tarred(root, tmp / "images.tar"))), {}),
        lambda root, _tmp: (
            Pairs(root),
            {"keys": [*keys_and_labels(root)], "labels": [*keys_and_labels(root).values()]},
        ),
        lambda root, _tmp: (Targets(root), {"keys": [*keys_and_labels(root)]}),
    ],
    ids=["ImageFolder", "ImageFolder, str", "timm folder", "timm tar", "pairs", "pairs with targets"],
)
def test_every_image_gets_its_own_row(
    build: Callable[[Path, Path], tuple[Any, dict[str, Any]]],
    order: Callable[[dict[str, int]], dict[str, int]],
    images: Path,
    tmp_path: Path,
    make_store: StoreMaker,
) -> None:
    rows = keys_and_labels(images)
    store = make_store(order(rows))
    inner, lists = build(images, tmp_path)
    dataset = MapDataset(inner, store, **lists)
    assert len(dataset) == len(rows)
    items = [dataset[i] for i in range(len(dataset))]
    assert sorted(int(target.row) for _, target in items) == [*range(len(rows))]
    for image, target in items:
        key = store.keys[int(target.row)]
        assert rows[key] == target.label
        with Image.open(images / key) as encoded:
            assert image == encoded.convert("RGB")
        np.testing.assert_array_equal(target.affine, np.eye(3)[:2])
    if hasattr(inner, "reader") and hasattr(inner.reader, "tar_state"):
        inner.reader.tar_state.tf.close()  # timm leaves it open


def test_the_transform_is_traced_wherever_it_is_given(images: Path, make_store: StoreMaker) -> None:
    store = make_store(keys_and_labels(images))
    later = MapDataset(ImageFolder(images), store)
    later.transform = CROP  # as timm's create_loader does
    for dataset in (MapDataset(ImageFolder(images), store, CROP), MapDataset(ImageFolder(images, CROP), store), later):
        torch.manual_seed(0)
        image, target = dataset[3]
        torch.manual_seed(0)
        assert torch.equal(image, CROP(ImageFolder(images)[3][0]))
        assert not np.array_equal(target.affine, np.eye(3)[:2])
    with pytest.raises(ValueError, match="expected one, found another in the dataset"):
        MapDataset(ImageFolder(images, CROP), store, CROP)
    later.transform = None
    assert later[3][0] == ImageFolder(images)[3][0]
    with pytest.raises(UntraceableTransform, match="RandomPerspective"):
        later.transform = tv.RandomPerspective()


@pytest.mark.parametrize(
    ("workers", "context"), [(0, None), (2, "fork"), pytest.param(1, "spawn", marks=pytest.mark.slow)]
)
def test_batches_of_targets_keep_their_type(
    images: Path, make_store: StoreMaker, workers: int, context: str | None
) -> None:
    dataset = MapDataset(ImageFolder(images), make_store(keys_and_labels(images)), CROP)
    batches = [*DataLoader(dataset, 7, num_workers=workers, multiprocessing_context=context)]
    assert len(batches) == 5
    for pixels, target in batches:
        b = len(pixels)
        assert isinstance(target, MapTarget)
        assert target.label.dtype == target.row.dtype == torch.int64
        assert target.affine.dtype == torch.float64
        assert [part.shape for part in target] == [(b,), (b,), (b, 10), (b,)]
        assert (target.affine.shape, target.bounds.shape) == ((b, 2, 3), (b, 4))
    moved = batches[0][1].to("meta", non_blocking=True)
    assert isinstance(moved, MapTarget)
    assert all(part.is_meta for part in moved)


def test_workers_do_not_carry_the_store(images: Path, make_store: StoreMaker) -> None:
    dataset = MapDataset(ImageFolder(images), make_store(keys_and_labels(images)), CROP)
    assert b"MapStore" not in pickle.dumps(dataset)
    target = default_collate([pickle.loads(pickle.dumps(dataset))[i] for i in range(2)])[1]
    assert target.row.tolist() == [0, 1]


def test_timm_s_own_training_transform_goes_through_its_loader(images: Path, make_store: StoreMaker) -> None:
    dataset = MapDataset(ImageDataset(str(images)), make_store(keys_and_labels(images)))
    dataset.transform = create_transform(32, is_training=True, auto_augment=None)
    pixels, target = next(iter(DataLoader(dataset, 4)))
    assert pixels.shape == (4, 3, 32, 32)
    assert set(target.label.tolist()) <= set(range(len(CLASSES)))
