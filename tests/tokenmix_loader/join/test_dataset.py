import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import ImageDataset, create_transform
from torch.utils.data import DataLoader, Subset, default_collate
from torchvision import transforms as tv
from torchvision.datasets import ImageFolder

from store import ShardError, StoreError, StoreMismatch
from tests.tokenmix_loader.conftest import CLASSES, StoreMaker, keys_and_labels
from tokenmix_loader import MapDataset, MapTarget, UntraceableTransform

CROP = tv.Compose([tv.RandomResizedCrop(24), tv.RandomHorizontalFlip(), tv.ToTensor()])


class Pairs(torch.utils.data.Dataset[tuple[Image.Image, int]]):
    """Somebody's own dataset."""

    def __init__(self, root: Path) -> None:
        self.rows = keys_and_labels(root)
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


def tarred(root: Path, target: Path) -> Path:
    with tarfile.open(target, "w") as tar:
        for path in sorted(root.glob("*/*")):
            tar.add(path, path.relative_to(root).as_posix())
    return target


def shuffled(rows: dict[str, int]) -> dict[str, int]:
    keys = np.random.default_rng(0).permutation([*rows])
    return {str(key): rows[str(key)] for key in keys}


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
        assert [part.shape for part in target] == [(b,), (b,), (b, 10)]
        assert (target.affine.shape, target.bounds.shape) == ((b, 2, 3), (b, 4))
    moved = batches[0][1].to("meta", non_blocking=True)
    assert isinstance(moved, MapTarget)
    assert all(part.is_meta for part in moved)


def test_workers_do_not_carry_the_store(images: Path, make_store: StoreMaker) -> None:
    dataset = MapDataset(ImageFolder(images), make_store(keys_and_labels(images)), CROP)
    assert b"MapStore" not in pickle.dumps(dataset)
    target = default_collate([pickle.loads(pickle.dumps(dataset))[i] for i in range(2)])[1]
    assert target.row.tolist() == [0, 1]


def test_missing_maps_are_an_error_or_scored_by_area(images: Path, make_store: StoreMaker) -> None:
    rows = keys_and_labels(images)
    lost = ["ant/img2.jpg", "cat/img11.jpg"]
    store = make_store({key: label for key, label in rows.items() if key not in lost})
    with pytest.raises(StoreMismatch, match=r"none for 2: ant/img2.jpg, cat/img11.jpg .*missing='area'"):
        MapDataset(ImageFolder(images), store)
    dataset = MapDataset(ImageFolder(images), store, missing="area")
    without = [key for i, key in enumerate(rows) if dataset[i][1].row == -1]
    assert without == lost


def test_a_store_of_other_images_is_refused_in_any_case(images: Path, make_store: StoreMaker) -> None:
    store = make_store({f"train/{key}": label for key, label in keys_and_labels(images).items()})
    with pytest.raises(StoreMismatch, match=r"none for 30: .*, \.\.\. \(a key of the store: train/ant/img10.jpg\)"):
        MapDataset(ImageFolder(images), store, missing="area")


@pytest.mark.parametrize("missing", ["error", "area"])
def test_relabelled_images_are_refused(images: Path, make_store: StoreMaker, missing: str) -> None:
    store = make_store(keys_and_labels(images) | {"bee/img3.jpg": 2})
    with pytest.raises(StoreMismatch, match=r"1 others: bee/img3.jpg \(dataset 1, store 2\)"):
        MapDataset(ImageFolder(images), store, missing=missing)


def test_repeated_keys_are_refused(images: Path, make_store: StoreMaker) -> None:
    keys = [*keys_and_labels(images)]
    with pytest.raises(StoreError, match="every key once, found 'ant/img10.jpg'"):
        MapDataset(Targets(images), make_store(keys_and_labels(images)), keys=[keys[0], *keys[:-1]])


def test_images_unreadable_at_extraction_are_named_once_and_scored_by_area(
    images: Path, make_store: StoreMaker
) -> None:
    store = make_store(keys_and_labels(images), unreadable=("bee/img4.jpg", "cat/img5.jpg"))
    with pytest.warns(UserWarning, match=r"found 2 that could not be read .*: bee/img4.jpg, cat/img5.jpg;") as caught:
        dataset = MapDataset(ImageFolder(images), store, CROP)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    rows = [dataset[i][1].row for i in range(len(dataset))]  # a second warning would be an error
    assert [store.keys[i] for i, row in enumerate(rows) if row == -1] == ["bee/img4.jpg", "cat/img5.jpg"]


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


@pytest.mark.parametrize("wrap", [lambda folder: folder, lambda folder: Subset(folder, range(len(folder)))])
def test_a_transform_that_nobody_traces_is_refused(
    images: Path, make_store: StoreMaker, wrap: Callable[[ImageFolder], Any]
) -> None:
    """The dataset would flip what the map shows."""
    rows = keys_and_labels(images)
    dataset = wrap(ImageFolder(images, tv.RandomHorizontalFlip(1)))
    with pytest.raises(ValueError, match=r"ImageFolder.transform: expected None, found one"):
        MapDataset(dataset, make_store(rows), keys=[*rows], labels=[*rows.values()])


def test_a_subclass_that_loads_in_its_own_way_is_refused(images: Path, make_store: StoreMaker) -> None:
    class Cropped(ImageFolder):  # type: ignore[misc]
        def __getitem__(self, index: int) -> Any:
            image, label = super().__getitem__(index)
            return image.crop((0, 0, 4, 4)), label

    with pytest.raises(TypeError, match="expected DatasetFolder's own way of loading, found another in Cropped"):
        MapDataset(Cropped(images), make_store(keys_and_labels(images)))


def test_labels_are_whole_numbers(images: Path, make_store: StoreMaker) -> None:
    rows = keys_and_labels(images)
    pairs = Subset(ImageFolder(images), range(len(rows)))
    with pytest.raises(TypeError, match="expected one whole number per label, found float64"):
        MapDataset(pairs, make_store(rows), keys=[*rows], labels=[0.5] * len(rows))  # type: ignore[list-item]


def test_timm_s_own_training_transform_goes_through_its_loader(images: Path, make_store: StoreMaker) -> None:
    dataset = MapDataset(ImageDataset(str(images)), make_store(keys_and_labels(images)))
    dataset.transform = create_transform(32, is_training=True, auto_augment=None)
    pixels, target = next(iter(DataLoader(dataset, 4)))
    assert pixels.shape == (4, 3, 32, 32)
    assert set(target.label.tolist()) <= set(range(len(CLASSES)))


@pytest.mark.parametrize("turn", [Image.Transpose.ROTATE_90, None])
def test_images_of_another_shape_are_refused_scaled_ones_are_not(
    turn: Image.Transpose | None, images: Path, make_store: StoreMaker
) -> None:
    """A loader that follows EXIF, or images cropped since, would lay maps over the wrong pixels."""

    def load(path: str) -> Image.Image:
        image = Image.open(path).convert("RGB")
        return image.transpose(turn) if turn is not None else image.resize((image.width * 3, image.height * 3))

    dataset = MapDataset(ImageFolder(str(images), loader=load), make_store(keys_and_labels(images)), CROP)
    if turn is None:
        assert dataset[0][0].shape == (3, 24, 24)
        return
    with pytest.raises(StoreMismatch, match=r"expected an image of 60 x \d+ px or scaled.*EXIF"):
        dataset[0]


def test_labels_are_those_that_image_folder_gives(images: Path, make_store: StoreMaker) -> None:
    folder = ImageFolder(str(images))
    folder.samples = [(path, (label + 1) % 3) for path, label in folder.samples]  # `targets` still has the old ones
    with pytest.raises(StoreMismatch, match="labels"):
        MapDataset(folder, make_store(keys_and_labels(images)), CROP)


@pytest.mark.parametrize(
    "names", [("label_logit",), ("label_logit", "view", "label", "size", "key", "status", "digest")]
)
def test_training_on_shuffled_maps_fails_at_the_start(
    images: Path, make_store: StoreMaker, names: tuple[str, ...]
) -> None:
    """Maps alone no longer fit their digests; whole rows no longer lie where the header lists them."""
    rows = keys_and_labels(images)
    store = make_store(shuffled(rows))
    path, keys = Path(store.__reduce__()[1][0]), [*shuffled(rows)]
    for file in sorted(path.glob("shard-*.h5")):
        with h5py.File(file, "r+") as shard:
            for name in names:
                values = shard[name][()]
                shard[name][...] = values[np.random.default_rng(0).permutation(len(values))]
    with pytest.raises((ShardError, StoreMismatch), match="tokenmix verify"):
        MapDataset(Targets(images), path, keys=keys, labels=[rows[key] for key in keys])


def test_a_part_of_the_images_joins_by_key(images: Path, make_store: StoreMaker) -> None:
    rows = keys_and_labels(images)
    few = [key for i, key in enumerate(shuffled(rows)) if i % 3 == 0]
    dataset = MapDataset(_Few(images, few), make_store(rows), keys=few, labels=[rows[key] for key in few])
    stored = make_store(rows).keys
    assert [stored[int(dataset[i][1].row)] for i in range(len(few))] == few


class _Few(Pairs):
    def __init__(self, root: Path, keys: list[str]) -> None:
        super().__init__(root)
        self.rows = {key: self.rows[key] for key in keys}


def test_renamed_images_are_named_and_never_scored_by_others(images: Path, make_store: StoreMaker) -> None:
    rows = keys_and_labels(images)
    store = make_store(rows)
    renamed = [key.replace("img2.", "img02.") for key in rows]
    with pytest.raises(StoreMismatch, match=r"none for 3: ant/img02.jpg, bee/img02.jpg, cat/img02.jpg "):
        MapDataset(Targets(images), store, keys=renamed)
    exchanged = [*rows]
    exchanged[0], exchanged[15] = exchanged[15], exchanged[0]  # of two classes: the labels tell
    with pytest.raises(StoreMismatch, match=r"expected the dataset's labels, found 2 others"):
        MapDataset(Targets(images), store, keys=exchanged)
