"""Hugging Face datasets with the columns that they have: other names, other types, cells without image or label."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-untyped]
import numpy as np
import pytest
from PIL import Image
from timm.data import create_dataset

from extract.errors import ImagesError, NoImageError
from extract.images.image_list import ImageList
from extract.images.listing import list_images
from extract.job.decoding import Decoder
from tests.extract.images.test_folder import PREPROCESSING

Make = Callable[..., str]
TWO = datasets.ClassLabel(names=["b", "a"])
IMAGE = datasets.Image()


def encoded() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    return file.getvalue()


CELL = {"bytes": encoded(), "path": None}


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """`make(image=(feature, cells), label=(feature, cells))` writes a dataset and returns what IMAGES is for it."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()

    def write(**columns: tuple[Any, list[Any]]) -> str:
        features = datasets.Features({name: feature for name, (feature, _) in columns.items()})
        table = datasets.Dataset.from_dict({name: cells for name, (_, cells) in columns.items()}, features)
        table.to_parquet(tmp_path / "table" / "train.parquet")
        return f"hfds/{tmp_path}/table"

    (tmp_path / "table").mkdir()
    return write


def timm_labels(images: str, **keys: str) -> list[int]:
    return list(create_dataset(images, split="train", **keys).reader.iter_targets())


def test_columns_of_other_names(make: Make) -> None:
    """As CIFAR-10 and CIFAR-100 have them."""
    place = make(img=(IMAGE, [CELL, CELL]), fine_label=(TWO, [1, 0]), coarse_label=(TWO, [0, 0]))
    with pytest.raises(ImagesError, match=r"no column 'image', but images in 'img'; .*'fine_label'.* with --input-key"):
        list_images(place)
    with pytest.raises(
        ImagesError, match=r"no column 'label'; .*'img', 'fine_label', 'coarse_label' with --target-key"
    ):
        list_images(place, input_key="img")
    images = list_images(place, input_key="img", target_key="fine_label")
    assert images.labels.tolist() == timm_labels(place, input_key="img", target_key="fine_label") == [1, 0]
    assert images.class_names == ["b", "a"]
    header = images.header()
    assert (header["input_key"], header["target_key"]) == ("img", "fine_label")


def test_defaults_are_not_written(make: Make) -> None:
    images = list_images(make(image=(IMAGE, [CELL]), label=(TWO, [0])), input_key="image", target_key="label")
    assert not {"input_key", "target_key", "suffixes"} & images.header().keys()


def test_a_label_that_lies_deeper(make: Make) -> None:
    place = make(image=(IMAGE, [CELL, CELL]), meta=({"label": TWO}, [{"label": 1}, {"label": 0}]))
    images = list_images(place, target_key="meta/label")
    assert images.labels.tolist() == timm_labels(place, target_key="meta/label") == [1, 0]
    assert images.class_names == ["b", "a"]


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
def test_whole_numbers_are_classes_without_names(make: Make, dtype: str) -> None:
    place = make(image=(IMAGE, [CELL, CELL]), label=(datasets.Value(dtype), [1, 0]))
    images = list_images(place)
    assert (images.labels.tolist(), images.class_names) == (timm_labels(place), ["0", "1"])
    assert images.labels.dtype == np.int32


def test_texts_are_refused_with_the_way_to_number_them(make: Make, tmp_path: Path) -> None:
    """timm's reader gives texts as they are, so that no training would have the labels that we chose."""
    place = make(image=(IMAGE, [CELL, CELL]), label=(datasets.Value("string"), ["dog", "cat"]))
    with pytest.raises(ImagesError, match=r"'label': Value\('string'\).*class_encode_column\('label'\).*to_parquet"):
        list_images(place)
    table = datasets.load_dataset(f"{tmp_path}/table", split="train")
    table.class_encode_column("label").to_parquet(tmp_path / "new" / "train.parquet")
    images = list_images(f"hfds/{tmp_path}/new")
    assert (images.class_names, images.labels.tolist()) == (["cat", "dog"], [1, 0])


@pytest.mark.parametrize(
    ("feature", "cells"),
    [
        (datasets.Value("float32"), [0.0, 1.0]),
        (datasets.List(TWO), [[0], [1]]),
        ({"a": TWO}, [{"a": 0}, {"a": 1}]),
        (IMAGE, [CELL, CELL]),
    ],
)
def test_labels_of_other_types_are_refused(make: Make, feature: Any, cells: list[Any]) -> None:
    with pytest.raises(ImagesError, match="expected one class index per image, found 'label': .* with --target-key"):
        list_images(make(image=(IMAGE, [CELL, CELL]), label=(feature, cells)))


@pytest.mark.parametrize(("label", "said"), [(-1, "found -1; a split for tests"), (None, "found none; a split")])
@pytest.mark.parametrize("feature", [TWO, datasets.Value("int64")])
def test_rows_without_a_label_are_named(make: Make, feature: Any, label: int | None, said: str) -> None:
    with pytest.raises(ImagesError, match=f"hfds/.*: row 1, 'label': expected a class index from 0 to .*, {said}"):
        list_images(make(image=(IMAGE, [CELL, CELL]), label=(feature, [0, label])))


def outcomes(images: ImageList) -> list[str]:
    samples = [Decoder(images, PREPROCESSING)[row] for row in range(len(images))]
    return [sample.error or ("fault" if sample.fault else "read") for sample in samples]


def test_empty_cells_are_images_that_cannot_be_read(make: Make) -> None:
    cells = [CELL, None, {"bytes": None, "path": None}, {"bytes": b"", "path": None}]
    plain = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    images = list_images(make(image=(plain, cells), label=(TWO, [0, 1, 0, 1])))
    assert outcomes(images) == ["read", *["an empty cell"] * 3]
    with pytest.raises(NoImageError):
        images.open(1)


def test_bytes_and_paths_are_images_too(make: Make, tmp_path: Path) -> None:
    raw = datasets.Value("binary")
    assert outcomes(list_images(make(image=(raw, [encoded(), None]), label=(TWO, [0, 1])))) == ["read", "an empty cell"]
    shutil.rmtree(tmp_path / "table")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "1.png").write_bytes(encoded())
    paths = [f"{tmp_path}/files/1.png", f"{tmp_path}/files/2.png", f"{tmp_path}/mount/3.png"]
    images = list_images(make(image=(datasets.Value("string"), paths), label=(TWO, [0, 1, 0])))
    assert list(images.keys) == ["1.png", "2.png", "3.png"]
    assert outcomes(images) == ["read", "no such file", "fault"]


@pytest.mark.parametrize(
    ("feature", "cells"),
    [
        (datasets.Value("int64"), [1, 2]),
        (datasets.List(IMAGE), [[CELL], [CELL]]),
        ({"a": IMAGE}, [{"a": CELL}, {"a": CELL}]),
    ],
)
def test_columns_of_no_images_are_refused(make: Make, feature: Any, cells: list[Any]) -> None:
    with pytest.raises(ImagesError, match="expected images, their bytes or their paths, found 'image': .* --input-key"):
        list_images(make(image=(feature, cells), label=(TWO, [0, 1])))


def test_a_split_without_rows(make: Make) -> None:
    with pytest.raises(ImagesError, match=r"expected a dataset with a split .train\[:0\]., found: .*no data"):
        list_images(make(image=(IMAGE, [CELL]), label=(TWO, [0])) + ":train[:0]")


def test_a_broken_file_and_a_missing_split(make: Make, tmp_path: Path) -> None:
    place = make(image=(IMAGE, [CELL]), label=(TWO, [0]))
    with pytest.raises(ImagesError, match="expected a dataset with a split 'test'"):
        list_images(f"{place}:test")
    (tmp_path / "table" / "train.parquet").write_bytes(b"PAR1garbagePAR1")
    with pytest.raises(ImagesError, match="expected a dataset with a split 'train', found"):
        list_images(place)


def test_what_save_to_disk_left_is_refused_with_the_call_that_turns_it_over(make: Make, tmp_path: Path) -> None:
    make(image=(IMAGE, [CELL]), label=(TWO, [0]))  # for its own cache
    datasets.Dataset.from_dict({"image": ["1.jpg"], "label": [0]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(ImagesError, match=r"load_from_disk\(FOLDER\), and \.to_parquet\('NEW/train.parquet'\)"):
        list_images(f"hfds/{tmp_path / 'saved'}")
    (tmp_path / "NEW").mkdir()
    datasets.load_from_disk(tmp_path / "saved").to_parquet(tmp_path / "NEW" / "train.parquet")
    assert list_images(f"hfds/{tmp_path / 'NEW'}").keys == ["1.jpg"]
