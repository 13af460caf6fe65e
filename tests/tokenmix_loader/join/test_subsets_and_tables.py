"""Parts of a dataset, Hugging Face's tables, samples that are mappings, and what is told that cannot be joined."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import AugMixDataset, ImageDataset
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, random_split
from torchvision.datasets import DatasetFolder, ImageFolder

from tests.tokenmix_loader.conftest import CLASSES, StoreMaker, keys_and_labels, size_of
from tests.tokenmix_loader.join.datasets import CROP, Targets
from tokenmix_loader import MapDataset, MapStore


def keys_of(dataset: Dataset[Any], store: MapStore) -> list[str]:
    return [store.keys[int(dataset[i][1].row)] for i in range(len(dataset))]  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [ImageFolder, ImageDataset])
@pytest.mark.parametrize(
    "chosen",
    [[7, 3, 29], [4, 4, 0, 4], [-1, 5], np.array([2, 1]), torch.tensor([2, 1]), range(10, 20)],
    ids=["order", "twice", "from the end", "array", "tensor", "range"],
)
def test_a_subset_is_joined_by_its_indices(kind: type[Any], chosen: Any, images: Path, make_store: StoreMaker) -> None:
    store, whole = make_store(keys_and_labels(images)), kind(str(images))
    everything = keys_of(MapDataset(whole, store), store)
    dataset = MapDataset(Subset(whole, chosen), store)
    assert keys_of(dataset, store) == [everything[int(i)] for i in chosen]
    for index, of_whole in enumerate(chosen):
        image, target = dataset[index]
        assert image == MapDataset(whole, store)[int(of_whole)][0]
        assert target.label == keys_and_labels(images)[everything[int(of_whole)]]


def test_random_split_and_a_subset_of_a_subset(images: Path, make_store: StoreMaker) -> None:
    rows = keys_and_labels(images)
    folder = ImageFolder(str(images), CROP)  # its own transform is followed, as without a Subset
    parts = random_split(folder, [20, 10], torch.Generator().manual_seed(0))
    few = Subset(parts[0], [3, 1])
    stored = {key: rows[key] for key in sorted(Path(folder.samples[i][0]).relative_to(images).as_posix()
                                               for i in parts[0].indices)}  # fmt: skip
    store = make_store(stored)  # only of the part
    assert keys_of(MapDataset(few, store), store) == [[*rows][parts[0].indices[i]] for i in (3, 1)]
    pixels, _ = next(iter(DataLoader(MapDataset(parts[0], store), 4, num_workers=1)))
    assert pixels.shape == (4, 3, 24, 24)
    assert len(pickle.loads(pickle.dumps(MapDataset(few, store)))) == 2
    assert len(Subset(MapDataset(folder, make_store(rows)), [1])) == 1


@pytest.mark.parametrize(
    ("chosen", "error", "message"),
    [
        (np.arange(30) % 2 == 0, TypeError, "whole numbers as indices, found bool.*of a mask take numpy.flatnonzero"),
        ([True, False], TypeError, "found bool"),
        (np.array([1.7]), TypeError, "found float64"),
        ({1, 2}, TypeError, "found object"),
        ([3, 30], IndexError, "expected indices of 30 samples, found 3 to 30"),
        ([-31], IndexError, "found -31 to -31"),
        ([], ValueError, "expected images, found an empty Subset"),
    ],
    ids=["mask", "list of a mask", "floats", "set", "beyond", "before", "none"],
)
def test_indices_that_choose_something_else_are_refused(
    chosen: Any, error: type[Exception], message: str, images: Path, make_store: StoreMaker
) -> None:
    """Of a mask, True would be taken for sample 1."""
    with pytest.raises(error, match=message):
        MapDataset(Subset(ImageFolder(images), chosen), make_store(keys_and_labels(images)))


def test_a_subset_that_transforms_its_samples_is_refused(images: Path, make_store: StoreMaker) -> None:
    class Transformed(Subset[Any]):
        def __getitem__(self, index: Any) -> Any:
            image, label = super().__getitem__(index)  # type: ignore[no-untyped-call]
            return image.rotate(90), label

        def __getitems__(self, indices: list[int]) -> list[Any]:
            return [self[index] for index in indices]

    with pytest.raises(TypeError, match="expected Subset's own way of loading, found another in Transformed"):
        MapDataset(Transformed(ImageFolder(images), [0]), make_store(keys_and_labels(images)))


class Stream(IterableDataset[Any]):
    """Something of which samples come by."""

    def __iter__(self) -> Any:
        return iter([])


@pytest.mark.parametrize(
    ("build", "remedy"),
    [
        (lambda folder: ConcatDataset([folder, folder]), "make a MapDataset of each part, and a ConcatDataset"),
        (lambda _: Stream(), "with MapJoin"),
        (lambda _: iter([]), "with MapJoin"),
        (lambda folder: AugMixDataset(folder), "found AugMixDataset; pass keys"),
        (lambda folder: {"train": folder, "test": folder}, "found dict; choose one of its splits: 'train', 'test'"),
    ],
    ids=["ConcatDataset", "IterableDataset", "iterator", "AugMixDataset", "splits"],
)
def test_what_cannot_be_joined_is_told_the_way(
    build: Callable[[Any], Any], remedy: str, images: Path, make_store: StoreMaker
) -> None:
    with pytest.raises(TypeError, match=remedy):
        MapDataset(build(ImageFolder(images)), make_store(keys_and_labels(images)))


def test_other_options_of_torchvision_s_folders(images: Path, tmp_path: Path, make_store: StoreMaker) -> None:
    rows = keys_and_labels(images)
    store = make_store(rows)
    some = ImageFolder(str(images), is_valid_file=lambda path: "img2" in path)
    assert keys_of(MapDataset(some, store), store) == [key for key in rows if "img2" in key]
    root = tmp_path / "with an empty class"
    (root / "dog").mkdir(parents=True)
    for name in CLASSES:
        (root / name).symlink_to(images / name)
    linked = MapDataset(ImageFolder(f"{root}/", allow_empty=True), store)
    assert keys_of(linked, store) == [*rows]
    arrays = DatasetFolder(str(images), loader=lambda path: np.asarray(Image.open(path)), extensions=(".jpg",))
    with pytest.raises(TypeError, match="expected a PIL image, found ndarray"):
        MapDataset(arrays, store)[0]


def dicts(images: Path, image: str = "image") -> list[dict[str, Any]]:
    rows = keys_and_labels(images)
    return [{image: Image.open(images / key).convert("RGB"), "label": label} for key, label in rows.items()]


def test_samples_may_be_mappings(images: Path, make_store: StoreMaker) -> None:
    rows = keys_and_labels(images)
    store, lists = make_store(rows), {"keys": [*rows], "labels": [*rows.values()]}
    for dataset in (
        MapDataset(dicts(images), store, **lists),  # type: ignore[arg-type]
        MapDataset(dicts(images, "jpg"), store, **lists, input_key="jpg"),  # type: ignore[arg-type]
    ):
        assert keys_of(dataset, store) == [*rows]
        assert dataset[4][0].tobytes() == Image.open(images / [*rows][4]).convert("RGB").tobytes()
    with pytest.raises(
        TypeError, match=r"list\[0\]: expected a field 'image' with the image, found jpg, label; pass inp"
    ):
        MapDataset(dicts(images, "jpg"), store, **lists)[0]  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"list\[0\]: expected \(image, label\) or a mapping, found int; wrap"):
        MapDataset([1] * 30, store, **lists)[0]  # type: ignore[arg-type]


def table(images: Path, names: tuple[str, str] = ("image", "label"), modes: str = "RGB") -> Any:
    datasets = pytest.importorskip("datasets")
    rows = keys_and_labels(images)
    columns = {names[0]: [str(images / key) for key in rows], names[1]: [*rows.values()]}
    return datasets.Dataset.from_dict(columns).cast_column(names[0], datasets.Image(mode=modes))


def test_a_table_of_hugging_face_is_joined_as_it_is_extracted(images: Path, make_store: StoreMaker) -> None:
    """Its files' names come twice, so keys are row numbers, whatever is shuffled or selected since."""
    labels = [*keys_and_labels(images).values()]
    store = make_store({f"{row:09d}": label for row, label in enumerate(labels)}, other=sizes_of(images))
    for inner in (
        table(images),
        table(images).shuffle(seed=1).select(range(5, 20)),
        table(images).train_test_split(0.5)["test"],
    ):
        dataset = MapDataset(inner, store, CROP)
        assert len(dataset) == len(inner)
        for index in range(len(inner)):
            assert store.labels[int(dataset[index][1].row)] == inner[index]["label"]
        dataset.transform = None
        assert dataset[3][0].tobytes() == inner[3]["image"].convert("RGB").tobytes()
        assert pickle.loads(pickle.dumps(dataset))[3][0] == dataset[3][0]
    assert MapDataset(table(images, modes="L"), store)[0][0].mode == "RGB"
    other = table(images, ("picture", "kind"))
    assert len(MapDataset(other, store, input_key="picture", target_key="kind")) == 30


def sizes_of(images: Path) -> dict[str, Any]:
    """The column of sizes for keys that do not tell them."""
    return {"size": np.array([size_of(key) for key in keys_and_labels(images)], np.int32)}


def test_a_table_with_given_keys(images: Path, make_store: StoreMaker) -> None:
    rows = keys_and_labels(images)
    store = make_store(rows)
    assert keys_of(MapDataset(table(images), store, keys=[*rows]), store) == [*rows]
    encoded = table(images).cast_column("image", pytest.importorskip("datasets").Image(decode=False))
    dataset = MapDataset(encoded, store, keys=[*rows])
    assert keys_of(dataset, store) == [*rows]
    assert dataset[3][0].tobytes() == table(images)[3]["image"].tobytes()


def test_a_table_that_does_not_fit_says_what_would(images: Path, make_store: StoreMaker) -> None:
    labels = [*keys_and_labels(images).values()]
    store = make_store({f"{row:09d}": label for row, label in enumerate(labels)}, other=sizes_of(images))
    inner = table(images)
    for wrong, message in (
        (inner.rename_column("image", "img"), r"expected a column 'image' of type Image, found .*pass input_key"),
        (
            inner.rename_column("label", "fine"),
            r"expected a column 'label' of labels, found \['fine', 'image'\]; pass t",
        ),
        (inner.with_format("torch"), "expected a dataset without a format, found 'torch'.*give the transform to MapDa"),
        (inner.select(range(5, 25)), "found 20 rows cut out of"),
        (inner.with_transform(lambda batch: batch), "without a format, found 'custom'"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            MapDataset(wrong, store)


def test_keys_given_for_timm_s_dataset_never_bring_another_image(
    images: Path, tmp_path: Path, make_store: StoreMaker
) -> None:
    """timm's own __getitem__ returns the next image for one that cannot be read."""
    rows = keys_and_labels(images)
    for key in rows:
        (tmp_path / "torn" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "torn" / key).write_bytes((images / key).read_bytes()[: 400 if key == "ant/img3.jpg" else None])
    inner = ImageDataset(str(tmp_path / "torn"))
    keys = list(inner.filenames())
    dataset = MapDataset(inner, make_store(rows), keys=keys, labels=[rows[key] for key in keys], same_files=False)
    with pytest.raises(OSError, match="ant/img3.jpg: expected an image, found"):
        dataset[keys.index("ant/img3.jpg")]


def test_pairs_without_labels_say_so(images: Path, make_store: StoreMaker) -> None:
    rows = keys_and_labels(images)
    with pytest.raises(TypeError, match="expected labels, found neither"):
        MapDataset(dicts(images), make_store(rows), keys=[*rows])
    assert len(MapDataset(Targets(images), make_store(rows), keys=[*rows])) == 30
