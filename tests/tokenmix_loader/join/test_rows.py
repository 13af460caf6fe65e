import tarfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image
from timm.data import ImageDataset
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder

from store import ShardError, StoreError, StoreMismatch
from tests.tokenmix_loader.conftest import StoreMaker, keys_and_labels
from tests.tokenmix_loader.join.datasets import CROP, Pairs, Targets, shuffled, users_warnings
from tokenmix_loader import MapDataset
from tokenmix_loader.join.rows import check_size, match_rows


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
    with pytest.raises(
        StoreMismatch, match=r"1 others: bee/img3.jpg \(dataset 1, store 2\); .* leave its class map out"
    ):
        MapDataset(ImageFolder(images), store, missing=missing)


@pytest.mark.parametrize("missing", ["error", "area"])
@pytest.mark.parametrize(("order", "others"), [("cat ant bee", 30), ("bee ant", 20)])
def test_a_dataset_made_with_a_class_map_is_refused_unless_it_changes_nothing(
    images: Path, tmp_path: Path, make_store: StoreMaker, missing: str, order: str, others: int
) -> None:
    """timm's ImageDataset numbers the classes as the map lists them; a store has ImageFolder's own numbers."""
    store = make_store(keys_and_labels(images))
    class_map = tmp_path / "classes.txt"
    class_map.write_text("\n".join(order.split()))
    with pytest.raises(
        StoreMismatch, match=rf"found {others} others: ant/img.*made with a class map.*leave its class map"
    ):
        MapDataset(ImageDataset(str(images), class_map=str(class_map)), store, missing=missing)
    class_map.write_text("ant\nbee\ncat\n")
    dataset = MapDataset(ImageDataset(str(images), class_map=str(class_map)), store, missing=missing)
    assert len(dataset) == 30


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
    assert [warning.filename for warning in users_warnings(caught)] == [__file__]
    rows = [dataset[i][1].row for i in range(len(dataset))]  # a second warning would be an error
    assert [store.keys[i] for i, row in enumerate(rows) if row == -1] == ["bee/img4.jpg", "cat/img5.jpg"]


LOST, REPAIRED = "bee/img4.jpg", "cat/img5.jpg"


@pytest.fixture
def torn(images: Path, tmp_path: Path) -> Path:
    """The same images, one of them cut off."""
    root = tmp_path / "torn"
    for key in keys_and_labels(images):
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes((images / key).read_bytes()[: 400 if key == LOST else None])
    return root


def tarred(root: Path) -> ImageDataset:
    with tarfile.open(root.with_suffix(".tar"), "w") as tar:
        for folder in sorted(root.iterdir()):
            tar.add(folder, folder.name)
    return ImageDataset(str(root.with_suffix(".tar")))


@pytest.mark.parametrize(
    "build",
    [
        ImageFolder,
        lambda root: ImageFolder(root, loader=lambda path: Image.open(path).convert("RGB")),
        lambda root: ImageDataset(str(root)),
        tarred,
        lambda root: Subset(ImageFolder(root), range(30)),
    ],
    ids=["ImageFolder", "own loader", "timm folder", "timm tar", "Subset"],
)
def test_with_consent_images_that_still_cannot_be_read_are_left_out_and_said(
    build: Callable[[Path], Any], torn: Path, make_store: StoreMaker
) -> None:
    rows = keys_and_labels(torn)
    store = make_store(rows, unreadable=(LOST, REPAIRED))
    inner = build(torn)
    with pytest.warns(UserWarning, match="could not be read at extraction") as caught:
        dataset = MapDataset(inner, store, missing="area")
    repaired, lost = (str(warning.message) for warning in users_warnings(caught))
    assert f"found 1 that could not be read at extraction: {REPAIRED}; they are scored by area" in repaired
    assert f"found 1 that could not be read at extraction: {LOST}; they still cannot be read, and are left out" in lost
    assert {warning.filename for warning in users_warnings(caught)} == {__file__}
    if hasattr(inner, "reader") and hasattr(inner.reader, "tar_state"):
        assert inner.reader.tar_state.tf is None  # workers that are forked later would share its position
    targets = [dataset[i][1] for i in range(29)]
    assert len(dataset) == len(dataset.indices) == 29
    keys = set(rows) - {LOST, REPAIRED}
    assert sorted(store.keys[int(target.row)] for target in targets if target.row >= 0) == sorted(keys)
    assert sum(int(target.row) == -1 for target in targets) == 1
    if hasattr(inner, "reader") and hasattr(inner.reader, "tar_state"):
        inner.reader.tar_state.tf.close()  # timm leaves it open


def test_indices_say_which_samples_are_left(torn: Path, make_store: StoreMaker) -> None:
    rows = keys_and_labels(torn)
    folder = ImageFolder(torn)
    with pytest.warns(UserWarning, match="left out until they are repaired"):
        dataset = MapDataset(folder, make_store(rows, unreadable=(LOST,)), missing="area")
    assert dataset.indices.tolist() == [i for i, key in enumerate(rows) if key != LOST]
    for at, index in enumerate(dataset.indices.tolist()):
        assert dataset[at][0] == folder[index][0]
    with pytest.raises(IndexError):
        dataset[29]


def test_without_consent_an_image_that_still_cannot_be_read_ends_the_training(
    torn: Path, make_store: StoreMaker
) -> None:
    rows = [*keys_and_labels(torn)]
    with pytest.warns(UserWarning, match="scored by area"):
        dataset = MapDataset(ImageFolder(torn), make_store(keys_and_labels(torn), unreadable=(LOST,)))
    assert len(dataset) == 30
    with pytest.raises(OSError, match=f"{LOST}: expected an image, found"):
        dataset[rows.index(LOST)]


def test_a_file_system_that_fails_is_no_unreadable_image(torn: Path, make_store: StoreMaker) -> None:
    """Or each rank of a training might leave out others."""
    folder = ImageFolder(torn)
    (torn / LOST).unlink()
    with pytest.raises(OSError, match="No such file or directory"):
        MapDataset(folder, make_store(keys_and_labels(torn) | {LOST: 1}, unreadable=(LOST,)), missing="area")


def test_images_without_a_map_are_not_called_unreadable(images: Path, make_store: StoreMaker) -> None:
    """Even where the last row of the store is, which index -1 would name."""
    rows = keys_and_labels(images)
    first, *others, last = rows
    store = make_store({key: label for key, label in rows.items() if key != first}, unreadable=(last,))
    with pytest.warns(UserWarning, match=f"found 1 that could not be read at extraction: {last};"):
        dataset = MapDataset(ImageFolder(images), store, missing="area")
    assert [dataset[i][1].row for i in range(30)] == [-1, *range(len(others)), -1]


WHOLE_ROW = ("label_logit", "view", "label", "prediction", "size", "key", "status", "digest")


@pytest.mark.parametrize(
    ("names", "error", "found"),
    [
        (WHOLE_ROW[:1], ShardError, "row 0.*: expected the map, label, view and key that were written together"),
        (
            WHOLE_ROW,
            StoreMismatch,
            "row 0: expected 'ant/img2.jpg', label 0, as its header lists them, .*rows were exchanged",
        ),
    ],
)
def test_training_on_shuffled_maps_fails_at_the_start(
    images: Path, make_store: StoreMaker, names: tuple[str, ...], error: type[Exception], found: str
) -> None:
    """Maps alone no longer fit their digests; whole rows no longer lie where the header lists them."""
    rows = shuffled(keys_and_labels(images))
    path, keys = Path(make_store(rows).__reduce__()[1][0]), [*rows]
    for file in sorted(path.glob("shard-*.h5")):
        with h5py.File(file, "r+") as shard:
            for name in names:
                values = shard[name][()]
                shard[name][...] = values[np.random.default_rng(0).permutation(len(values))]
    with pytest.raises(error, match=f"{found}.*tokenmix verify"):
        MapDataset(Targets(images), path, keys=keys, labels=[rows[key] for key in keys])


def test_a_part_of_the_images_joins_by_key(images: Path, make_store: StoreMaker) -> None:
    rows = keys_and_labels(images)
    few = [key for i, key in enumerate(shuffled(rows)) if i % 3 == 0]
    dataset = MapDataset(Pairs(images, few), make_store(rows), keys=few, labels=[rows[key] for key in few])
    stored = make_store(rows).keys
    assert [stored[int(dataset[i][1].row)] for i in range(len(few))] == few


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


@pytest.mark.parametrize(
    ("size", "fits"),
    [
        ((500, 375), True), ((256, 192), True), ((341, 256), True), ((342, 256), True),  # of either rounding
        ((501, 375), True), ((375, 500), False), ((500, 371), False), ((490, 375), False), ((256, 256), False),
    ],
)  # fmt: skip
def test_scaled_images_fit_to_a_pixel(size: tuple[int, int], fits: bool) -> None:
    """The map was made of 500 x 375 px; an image without a map has size (0, 0), which fits any."""
    check_size("a.jpg", size, (0, 0))
    with nullcontext() if fits else pytest.raises(StoreMismatch, match="'a.jpg': expected an image of 500 x 375 px"):
        check_size("a.jpg", size, (500, 375))


def test_a_tar_packed_from_inside_the_folder_joins_as_the_folder(images: Path, make_store: StoreMaker) -> None:
    """`tar -cf x.tar .` puts ./ before every name, for timm's reader and in stores of earlier versions."""
    plain = keys_and_labels(images)
    inside = {f"./{key}": label for key, label in plain.items()}
    for given, stored in ((plain, inside), (inside, plain)):
        assert match_rows([*given], [*given.values()], make_store(stored)).tolist() == list(range(len(plain)))
