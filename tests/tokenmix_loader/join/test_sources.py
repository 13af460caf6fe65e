import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from PIL.PngImagePlugin import PngInfo
from timm.data import ImageDataset
from torch.utils.data import ConcatDataset, Subset
from torchvision import transforms as tv
from torchvision.datasets import ImageFolder

from store import StoreMismatch
from tests.tokenmix_loader.conftest import StoreMaker, keys_and_labels
from tests.tokenmix_loader.join.datasets import CROP, Pairs, Targets
from tokenmix_loader import MapDataset, MapJoin
from tokenmix_loader.join.folders import keys_below


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda root: {"dataset": Pairs(root)}, "found Pairs; pass keys"),
        (lambda root: {"dataset": Pairs(root), "keys": ["a"] * 30}, "found neither `labels` nor `targets`"),
        (lambda root: {"dataset": Targets(root), "keys": ["a"]}, "found 30 images, 1 keys, 30 labels"),
        (lambda root: {"dataset": Targets(root), "keys": [root / "a"] * 30}, "keys: expected texts, .* found P.*Path"),
        (lambda root: {"dataset": Targets(root), "keys": iter("a")}, "found 30 images, 1 keys, 30 labels"),
        (lambda root: {"dataset": ImageFolder(root), "labels": [0] * 30}, "labels: expected keys with it"),
        (lambda root: {"dataset": ImageFolder(root), "root": root}, "root: expected keys with it"),
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


def raises(error: Exception) -> Callable[[str], Any]:
    def load(_: str) -> Any:
        raise error

    return load


TORN = b"P6 900 900 255\n" + bytes(1000)
LOADERS: dict[str, Callable[[str], Any]] = {
    **{
        type(error).__name__: raises(error)
        for error in (
            OSError("cut off"), ValueError("Decompressed data too large"), SyntaxError("not a TIFF file"),
            struct.error("unpack requires 4 bytes"), zlib.error("incorrect header check"), EOFError("no frame"),
            Image.DecompressionBombError("too many pixels"), RuntimeError("libjpeg"),
        )
    },
    "None": lambda _: None,
    "opened only": lambda _: Image.open(io.BytesIO(TORN)),
}  # fmt: skip


@pytest.mark.parametrize("kept", ["ImageFolder", "keys", "Subset"])
@pytest.mark.parametrize("loader", LOADERS)
def test_whatever_a_loader_raises_names_the_file(loader: str, kept: str, images: Path, make_store: StoreMaker) -> None:
    rows = keys_and_labels(images)
    folder: Any = ImageFolder(str(images), loader=LOADERS[loader])
    lists: dict[str, Any] = {"keys": [*rows], "labels": [*rows.values()]} if kept == "keys" else {}
    own = Loaded(folder.loader, [*rows])
    inner = {"ImageFolder": folder, "Subset": Subset(folder, range(30)), "keys": own}[kept]
    with pytest.raises(OSError, match="ant/img10.jpg: expected an image, found .*; repair it or take") as caught:
        MapDataset(inner, make_store(rows), **lists)[0]
    if loader not in ("None", "OSError", "opened only"):
        assert f"found {loader}: " in str(caught.value)
        assert type(caught.value.__cause__).__name__ in (loader, "error")


class Loaded(torch.utils.data.Dataset[Any]):
    """Somebody's own dataset, with a loader."""

    def __init__(self, loader: Callable[[str], Any], keys: list[str]) -> None:
        self.loader, self.keys = loader, keys

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Any:
        return self.loader(self.keys[index]), 0


def test_a_stream_s_image_that_cannot_be_decoded_names_its_key(images: Path, make_store: StoreMaker) -> None:
    rows = keys_and_labels(images)
    join = MapJoin(make_store(rows))
    for image in (None, Image.open(io.BytesIO(TORN))):
        with pytest.raises(OSError, match="ant/img10: expected an image, found"):
            join(image, 0, "ant/img10")


@pytest.mark.parametrize("kind", [ImageFolder, ImageDataset])
def test_damaged_files_of_any_kind_name_their_path(kind: type[Any], tmp_path: Path, make_store: StoreMaker) -> None:
    """Pillow raises ValueError for the text of this PNG."""
    path = tmp_path / "images" / "ant" / "img1.png"
    path.parent.mkdir(parents=True)
    text = PngInfo()
    text.add_text("long", "x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    Image.new("RGB", (60, 41)).save(path, pnginfo=text)
    dataset = MapDataset(kind(str(tmp_path / "images")), make_store({"ant/img1.png": 0}))
    with pytest.raises(OSError, match="ant/img1.png: expected an image, found ValueError: Decompressed data too large"):
        dataset[0]


@pytest.mark.parametrize("root", ["{}", "{}/", "{}//", "{}/ant/..", "{}/.", ".", "./", "link", "link/"])
@pytest.mark.parametrize("kind", [ImageFolder, ImageDataset])
def test_a_root_may_be_written_in_any_way(
    kind: type[Any], root: str, images: Path, make_store: StoreMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = keys_and_labels(images)
    linked = root.startswith("link")
    if linked:
        (tmp_path / "link").symlink_to(images)
    else:
        (tmp_path / "images").symlink_to(images)
    monkeypatch.chdir(tmp_path if linked else images)
    store = make_store(rows)
    dataset = MapDataset(kind(root.format(tmp_path / "images")), store)
    assert sorted(store.keys[int(dataset[i][1].row)] for i in range(30)) == sorted(rows)


def test_keys_below_a_root(tmp_path: Path) -> None:
    assert keys_below("a", ["a/x.jpg", "a/b/y.jpg", "a//x.jpg", "a/b//y.jpg", os.path.abspath("a/b/y.jpg")]) == [
        "x.jpg", "b/y.jpg", "x.jpg", "b/y.jpg", "b/y.jpg",
    ]  # fmt: skip
    assert keys_below(Path("/a"), ["/a/..x/y.jpg", "/a/a/y.jpg"]) == ["..x/y.jpg", "a/y.jpg"]
    for stranger in ("ab/x.jpg", "x.jpg", "/x.jpg"):
        with pytest.raises(ValueError, match="expected a file below the dataset's root a, found another; pass keys"):
            keys_below("a", [stranger])


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
