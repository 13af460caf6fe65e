"""Datasets whose images are rows of a table or members of shards, with the real packages."""

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from timm.data import create_dataset
from torch.utils.data import DataLoader
from torchvision import transforms as tv

from extract.errors import ImagesError
from extract.images.listing import list_images
from store import StoreMismatch
from store.table_keys import names_or_numbers
from tests.tokenmix_loader.conftest import StoreMaker, keys_and_labels
from tests.tokenmix_loader.join.datasets import users_warnings
from tokenmix_loader import MapJoin, MapTarget, trace
from tokenmix_loader.join.rows import find_rows
from tokenmix_loader.join.source import load_image
from tokenmix_loader.join.sources import Given, source_of

# WebDataset leaves a shard open when nobody reads on.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
CROP = tv.Compose([tv.RandomResizedCrop(16), tv.ToTensor()])


@pytest.fixture(scope="module")
def shards(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The class folder as WebDataset shards of twelve images."""
    folder = tmp_path_factory.mktemp("shards")
    rows = [*keys_and_labels(images).items()]
    for shard in range(0, len(rows), 12):
        with tarfile.open(folder / f"train-{shard:02d}.tar", "w") as tar:
            for key, label in rows[shard : shard + 12]:
                stem = key.removesuffix(".jpg")
                for name, content in ((key, (images / key).read_bytes()), (f"{stem}.cls", str(label).encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return folder


def stream(shards: Path, join: MapJoin) -> Any:
    webdataset = pytest.importorskip("webdataset")
    urls = sorted(map(str, shards.glob("*.tar")))
    samples = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode("pil")
    return samples.to_tuple("jpg", "cls", "__key__").map(lambda sample: join(*sample))


def test_shards_are_listed_as_the_folder_is(images: Path, shards: Path) -> None:
    listed = list_images(f"wds/{shards}")
    expected = keys_and_labels(images)
    assert dict(zip(listed.keys, listed.labels.tolist(), strict=True)) == {
        key.removesuffix(".jpg"): label for key, label in expected.items()
    }
    again = pickle.loads(pickle.dumps(listed))
    for row, key in enumerate(listed.keys):
        assert again.open(row).read() == (images / f"{key}.jpg").read_bytes()
    assert listed.class_names == ["0", "1", "2"]


@pytest.mark.parametrize("with_extension", [True, False])
def test_a_stream_finds_its_maps(images: Path, shards: Path, make_store: StoreMaker, with_extension: bool) -> None:
    rows = keys_and_labels(images)
    store = make_store({key if with_extension else key.removesuffix(".jpg"): label for key, label in rows.items()})
    loader = DataLoader(stream(shards, MapJoin(store, CROP)), 10, num_workers=2)
    found: list[int] = []
    for pixels, target in loader:
        assert isinstance(target, MapTarget)
        assert pixels.shape == (len(target.label), 3, 16, 16)
        assert target.place.shape == (len(target.label), 10)
        assert (target.place[:, 0] < 1).any()
        np.testing.assert_array_equal(target.label, store.labels[target.row.numpy()])
        found += target.row.tolist()
    assert sorted(found) == [*range(30)]


def test_a_stream_with_other_images_is_refused_or_scored_by_area(
    images: Path, shards: Path, make_store: StoreMaker
) -> None:
    rows = keys_and_labels(images)
    fewer = dict([*rows.items()][:-1])
    assert [*rows][-1].endswith("img9.jpg")
    with pytest.raises(
        StoreMismatch, match=r"expected a map of 'cat/img9', found none \(a key of the store: ant/img10"
    ):
        [*stream(shards, MapJoin(make_store(fewer)))]
    by_area = [target.row for _, target in stream(shards, MapJoin(make_store(fewer), missing="area"))]
    assert by_area.count(-1) == 1
    with pytest.raises(
        StoreMismatch, match="'ant/img10': expected label 1, as its map was made for, found 0; .*class map"
    ):
        [*stream(shards, MapJoin(make_store({key: (label + 1) % 3 for key, label in rows.items()})))]
    with pytest.raises(StoreMismatch, match="expected an image of 60 x 50 px"):
        MapJoin(make_store(rows))(Image.new("RGB", (50, 60)), 0, "ant/img10")
    with pytest.raises(StoreMismatch, match=r"expected keys that differ without their extensions.*a\.(jpg|png)"):
        MapJoin(make_store({"a.jpg": 0, "a.png": 0}))


def test_unknown_keys_have_no_map_wherever_their_hashes_lie(images: Path, make_store: StoreMaker) -> None:
    store = make_store(keys_and_labels(images))
    join, image = MapJoin(store, missing="area"), Image.new("RGB", (8, 8))
    assert {join(image, 0, f"unknown/{i}")[1].row for i in range(300)} == {-1}
    with pytest.raises(ValueError, match="MapJoin: missing: expected one of error, area, found 'skip'"):
        MapJoin(store, missing="skip")


def test_images_unreadable_at_extraction_are_named_once_and_scored_by_area(
    images: Path, make_store: StoreMaker
) -> None:
    rows = keys_and_labels(images)
    store = make_store(rows, unreadable=("bee/img4.jpg",))
    with pytest.warns(UserWarning, match=r"found 1 that could not be read .*: bee/img4.jpg;") as caught:
        join = MapJoin(store)
    assert [warning.filename for warning in users_warnings(caught)] == [__file__]
    for key, row in (("bee/img4", -1), ("bee/img5", [*rows].index("bee/img5.jpg"))):
        with Image.open(images / f"{key}.jpg") as image:
            assert join(image, 1, key)[1].row == row


def test_shards_without_labels_are_refused(tmp_path: Path, images: Path) -> None:
    with pytest.raises(ImagesError, match=r"expected WebDataset's .tar shards, found nothing"):
        list_images(f"wds/{tmp_path}")
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        tar.add(images / "ant/img2.jpg", "img2.jpg")
    with pytest.raises(ImagesError, match=r"'img2.jpg': expected a label in .cls .* none for 1 of 1"):
        list_images(f"wds/{tmp_path}")
    with tarfile.open(tmp_path / "1.tar", "w") as tar:
        tar.add(images / "ant/img2.jpg", "img2.png")
    with pytest.raises(ImagesError, match="1.tar: 'img2.png': expected every key once, found it in .*0.tar: "):
        list_images(f"wds/{tmp_path}")


def test_hugging_face_s_images_keep_their_keys(
    images: Path, tmp_path: Path, make_store: StoreMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through timm's reader: names that repeat between folders become row numbers, whatever is shuffled since."""
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    listed = list_images(f"hfds/{images}:train")
    with pytest.raises(ImagesError, match=r"expected a dataset with a split 'best', found.*hfds/NAME:SPLIT"):
        list_images(f"hfds/{images}:best")
    assert list(listed.keys) == [f"{row:09d}" for row in range(30)]
    assert list(listed.class_names) == ["ant", "bee", "cat"]
    store = make_store(dict(zip(listed.keys, listed.labels.tolist(), strict=True)))
    inner = create_dataset(f"hfds/{images}", root=str(tmp_path / "cache"), split="train")
    inner.reader.dataset = inner.reader.dataset.shuffle(seed=1)
    source = source_of(inner, Given())
    assert source.keys != listed.keys
    rows = find_rows(source.keys, source.labels, store)
    for index, row in enumerate(rows.tolist()):
        with listed.open(row) as file, Image.open(file) as encoded:
            assert load_image(source.files, index) == encoded.convert("RGB")


def test_names_or_numbers() -> None:
    assert names_or_numbers(["/a/x.jpg", "C:\\b\\y.jpg"]) == ["x.jpg", "y.jpg"]
    for paths in (["/a/x.jpg", "/b/x.jpg"], ["x.jpg", None], ["a/", "b"]):
        assert names_or_numbers(paths) == ["000000000", "000000001"]


def test_a_sample_of_another_type_is_refused(images: Path, make_store: StoreMaker) -> None:
    rows = keys_and_labels(images)
    key, label = next(iter(rows.items()))
    join = MapJoin(make_store(rows), trace(CROP))  # traced already, as MapDataset takes it
    with Image.open(images / key) as image:
        assert join(image, label, key)[0].shape == (3, 16, 16)
        with pytest.raises(TypeError, match=r"expected a key of type str, found b'.*; decode it"):
            join(image, label, key.encode())  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="expected a PIL image, found Tensor"):
            join(tv.ToTensor()(image), label, key)
        for wrong in (0.7, "ant", b"0", None):
            with pytest.raises(
                TypeError, match=f"{key}': expected a class index, found the label {wrong!r}; decode it"
            ):
                join(image, wrong, key)  # type: ignore[arg-type]
        assert join(image, np.int64(label), key)[1].label == join(image, label, key)[1].label
