"""The image list: order, labels and every way in which a folder can be wrong."""

import os
import tarfile
from pathlib import Path

import pytest
from timm.data import create_dataset

from extract.errors import ImagesError
from extract.images.listing import list_images
from tests.extract.conftest import MakeFolder

NAMES = {"class2": ["b 1.jpg", "b10.png", "b2.JPEG"], "class10": ["ünïcode\n.jpg"], "class1": ["a.jpg"]}


def test_order_and_labels_are_timms(make_folder: MakeFolder) -> None:
    root = make_folder(NAMES)
    (root / "class1" / "notes.txt").write_text("not an image")
    images = list_images(root)
    theirs = create_dataset("", str(root))
    assert list(images.keys) == theirs.filenames()
    assert images.labels.tolist() == [label for _, label in theirs.reader.samples]
    assert images.class_names == ["class1", "class2", "class10"]
    assert "class10/ünïcode\n.jpg" in images.keys


def test_tar_lists_and_reads_as_the_folder(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder(NAMES)
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(root, ".")
    folder, packed = list_images(root), list_images(tmp_path / "set.tar")
    assert [key.removeprefix("./") for key in packed.keys] == list(folder.keys)
    assert packed.labels.tolist() == folder.labels.tolist()
    for row in range(len(folder)):
        with folder.open(row) as a, packed.open(row) as b:
            assert a.read() == b.read()


def expect(match: str, root: Path) -> None:
    with pytest.raises(ImagesError, match=match) as caught:
        list_images(root)
    assert str(root) in str(caught.value)


def test_missing_folder(tmp_path: Path) -> None:
    expect("found nothing", tmp_path / "nowhere")


def test_a_file_that_is_no_tar(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"PK")
    expect("a file that is no .tar", tmp_path / "x.zip")


def test_a_broken_tar(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"garbage" * 200)
    expect("uncompressed tar", tmp_path / "x.tar")


def test_repeated_name_in_a_tar(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"a": ["1.jpg"]})
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(root / "a" / "1.jpg", "a/1.jpg")
        tar.add(root / "a" / "1.jpg", "a/1.jpg")
    expect("every name once, found 'a/1.jpg'", tmp_path / "x.tar")


def test_empty_folder(tmp_path: Path) -> None:
    expect("found nothing", tmp_path)


def test_class_folder_without_images(make_folder: MakeFolder) -> None:
    root = make_folder({"a": ["1.jpg"], "c": ["1.jpg"]})
    (root / "b").mkdir()
    expect("would shift the labels", root)


def test_image_outside_any_class(make_folder: MakeFolder) -> None:
    root = make_folder({"a": ["1.jpg"], ".": ["stray.jpg"]})
    expect("found 1 directly in it beside 1 class folders, such as 'stray.jpg'", root)


def test_two_folders_of_one_name(make_folder: MakeFolder, tmp_path: Path) -> None:
    """train/ and val/ below one root would become one class each, silently."""
    make_folder({"train/cat": ["1.jpg"], "val/cat": ["1.jpg"]})
    expect("one folder per class, found 'train/cat' and 'val/cat'", tmp_path / "images")


def test_a_link_that_leads_back_up(make_folder: MakeFolder) -> None:
    root = make_folder({"a": ["1.jpg"]})
    (root / "a" / "up").symlink_to(root)
    expect("no links that lead back up", root)


def test_name_that_is_not_utf8(make_folder: MakeFolder) -> None:
    root = make_folder({"a": ["1.jpg"]})
    os.rename(root / "a" / "1.jpg", os.fsencode(root / "a") + b"/\xff.jpg")
    expect("UTF-8 file names", root)
