"""Joining compares files: another split of the same names and shapes is refused, whatever its images lie in."""

import io
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from PIL import Image
from timm.data import create_dataset
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder

from store import MapStore, StoreMismatch
from store.fingerprint import fingerprint_of_bytes
from store.table_keys import names_or_numbers
from tests.tokenmix_loader.conftest import StoreMaker, keys_and_labels, size_of
from tests.tokenmix_loader.join.datasets import Targets
from tokenmix_loader import MapDataset
from tokenmix_loader.join import fingerprints

Make = Callable[[Path], dict[str, Any]]  # of a folder, what MapDataset gets


@pytest.fixture
def others(images: Path, tmp_path: Path) -> Path:
    """Another split: the same names, sizes in px and labels, other pictures."""
    for key in keys_and_labels(images):
        file = tmp_path / "others" / key
        file.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(images / key) as image:
            image.rotate(180).save(file)
    return tmp_path / "others"


def packed(root: Path) -> dict[str, Any]:
    with tarfile.open(root.parent / f"{root.name}.tar", "w") as tar:
        for folder in sorted(root.iterdir()):
            tar.add(folder, folder.name)
    return {"dataset": create_dataset("", str(root.parent / f"{root.name}.tar"))}


def table(root: Path) -> dict[str, Any]:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    rows = keys_and_labels(root)
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=sorted({key.split("/")[0] for key in rows}))
    )
    cells = [{"bytes": (root / key).read_bytes(), "path": None} for key in rows]
    return {"dataset": datasets.Dataset.from_dict({"image": cells, "label": [*rows.values()]}, features=features)}


SOURCES: dict[str, Make] = {
    "ImageFolder": lambda root: {"dataset": ImageFolder(root)},
    "timm folder": lambda root: {"dataset": create_dataset("", str(root))},
    "timm tar": packed,
    "Hugging Face": table,
    "keys and root": lambda root: {"dataset": Targets(root), "keys": [*keys_and_labels(root)], "root": root},
    "Subset": lambda root: {"dataset": Subset(ImageFolder(root), range(7, 20))},
}


def store_of(root: Path, make_store: StoreMaker, source: str, **fields: Any) -> MapStore:
    rows = keys_and_labels(root)
    prints = np.array([fingerprint_of_bytes((root / key).read_bytes()) for key in rows], np.uint64)
    columns = fields.pop("columns", ("orientation", "fingerprint"))
    if source == "Hugging Face":
        rows = dict(zip(names_or_numbers([None] * len(rows)), rows.values(), strict=True))
        fields["other"] = {"size": np.array([size_of(key) for key in keys_and_labels(root)], np.int32)}
    other = {"fingerprint": prints} | fields.pop("other", {})
    return make_store(rows, columns=columns, other=other, **fields)


@pytest.mark.parametrize("source", SOURCES)
def test_another_split(images: Path, others: Path, make_store: StoreMaker, source: str) -> None:
    copied = Path(shutil.copytree(images, others.parent / "copied"))  # a tar of it lies beside it
    store = store_of(images, make_store, source)
    same = MapDataset(store=store, **SOURCES[source](copied))
    given = SOURCES[source](others)
    with pytest.raises(
        StoreMismatch, match=r"of \d+ files compared \d+ .*\n  .*found [0-9a-f]{16}, \d+ bytes"
    ) as caught:
        MapDataset(store=store, **given)
    assert "same_files=False" in str(caught.value)
    assert str(caught.value).count("found") == 3
    assert len(MapDataset(store=store, same_files=False, **given)) == len(same)


def test_only_one_other_file_of_few(images: Path, others: Path, make_store: StoreMaker) -> None:
    root = Path(shutil.copytree(images, others.parent / "mixed"))
    shutil.copy(others / "bee" / "img7.jpg", root / "bee" / "img7.jpg")
    with pytest.raises(StoreMismatch, match=r"of 30 files compared 1 are not .*\n  bee/img7.jpg: expected the file"):
        MapDataset(ImageFolder(root), store_of(images, make_store, ""))


def test_what_the_store_does_not_know_is_not_compared(images: Path, others: Path, make_store: StoreMaker) -> None:
    assert len(MapDataset(ImageFolder(others), store_of(images, make_store, "", columns=("orientation",)))) == 30
    unknown = {"fingerprint": np.zeros(30, np.uint64)}
    assert len(MapDataset(ImageFolder(others), store_of(images, make_store, "", other=unknown))) == 30


def test_images_without_a_map_are_not_compared(images: Path, others: Path, make_store: StoreMaker) -> None:
    """Those that could not be read at extraction may have been repaired since."""
    root = Path(shutil.copytree(images, others.parent / "repaired"))
    shutil.copy(others / "bee" / "img7.jpg", root / "bee" / "img7.jpg")
    store = store_of(images, make_store, "", unreadable=("bee/img7.jpg",))
    with pytest.warns(UserWarning, match="could not be read at extraction"):
        MapDataset(ImageFolder(root), store)


def test_a_lost_file_is_not_taken_for_another_split(images: Path, others: Path, make_store: StoreMaker) -> None:
    root = Path(shutil.copytree(images, others.parent / "torn"))
    folder = ImageFolder(root)
    (root / "ant" / "img3.jpg").unlink()
    dataset = MapDataset(folder, store_of(images, make_store, ""))
    with pytest.raises(OSError, match="img3"):
        dataset[[*keys_and_labels(images)].index("ant/img3.jpg")]


def test_files_that_are_looked_for_in_a_wrong_place_are_not_passed_over(images: Path, make_store: StoreMaker) -> None:
    keys = [*keys_and_labels(images)]
    with pytest.raises(StoreMismatch, match="expected the files of its images, found that none of 30 can be opened"):
        MapDataset(Targets(images), store_of(images, make_store, ""), keys=keys, root=images / "nowhere")


def test_a_sample_is_spread_and_small(images: Path, make_store: StoreMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, opened = [*keys_and_labels(images)], []

    def open_file(index: int) -> BinaryIO:
        opened.append(index)
        return io.BytesIO((images / keys[index]).read_bytes())

    monkeypatch.setattr(fingerprints, "SAMPLED_FILES", 4)
    fingerprints.require_same_files(keys, np.arange(30), open_file, store_of(images, make_store, ""))
    assert opened == [0, 9, 19, 29]


def test_a_tar_is_left_as_it_was(images: Path, tmp_path: Path, make_store: StoreMaker) -> None:
    """An open one would be shared by forked workers, and so would its position."""
    dataset = packed(Path(shutil.copytree(images, tmp_path / "packed")))["dataset"]
    joined = MapDataset(dataset, store_of(images, make_store, ""))
    assert dataset.reader.tar_state.tf is None
    assert len(pickle.loads(pickle.dumps(joined))) == 30
