"""Tars that are read in another way than they look: compressed, tars of tars, links, files with gaps."""

import subprocess
import tarfile
from pathlib import Path

import pytest

from extract.errors import ImagesError
from extract.images.listing import list_images
from tests.extract.conftest import MakeFolder


def refused_with_command(path: Path, match: str) -> str:
    with pytest.raises(ImagesError, match=match) as caught:
        list_images(path)
    assert str(path) in str(caught.value)
    return str(caught.value).rpartition("result: " if "result: " in str(caught.value) else "the folder: ")[2]


@pytest.mark.parametrize(
    ("name", "kind"), [("a b.tar.gz", "gz"), ("x.tgz", "gz"), ("x.tar", "gz"), ("x.tar.xz", "xz"), ("x.tar.bz2", "bz2")]
)
def test_a_compressed_tar_is_refused_with_the_command_that_unpacks_it(
    make_folder: MakeFolder, tmp_path: Path, name: str, kind: str
) -> None:
    root = make_folder({"a": ["1.jpg"]})
    (tmp_path / "packed").mkdir()
    with tarfile.open(tmp_path / "packed" / name, f"w:{kind}") as tar:  # type: ignore[call-overload]
        tar.add(root / "a", "a")
    subprocess.run(refused_with_command(tmp_path / "packed" / name, "a compressed file"), shell=True, check=True)
    made = [path for path in (tmp_path / "packed").iterdir() if path.name != name]
    assert [list(list_images(path).keys) for path in made] == [["a/1.jpg"]]


def test_a_tar_of_tars_is_refused_with_the_command_that_unpacks_it(make_folder: MakeFolder, tmp_path: Path) -> None:
    """As ILSVRC2012_img_train.tar is."""
    root = make_folder({"n01": ["n01_1.jpg", "n01_2.jpg"], "n02": ["n02_1.jpg"]})
    path = tmp_path / "my train.tar"
    with tarfile.open(path, "w") as outer:
        for name in ("n01", "n02"):
            with tarfile.open(tmp_path / f"{name}.tar", "w") as inner:
                for image in sorted((root / name).iterdir()):
                    inner.add(image, image.name)
            outer.add(tmp_path / f"{name}.tar", f"{name}.tar")
    subprocess.run(refused_with_command(path, r"a tar of tars \(2 \.tar, such as 'n01.tar'\)"), shell=True, check=True)
    assert list(list_images(tmp_path / "my train").keys) == list(list_images(root).keys)


def test_links_are_left_out_and_said(make_folder: MakeFolder, tmp_path: Path) -> None:
    """tar packs the second name of a file as a link without bytes."""
    root = make_folder({"a": ["1.jpg"]})
    (root / "a" / "2.jpg").hardlink_to(root / "a" / "1.jpg")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(root / "a" / "1.jpg", "a/1.jpg")
        tar.add(root / "a" / "2.jpg", "a/2.jpg")
    said: list[str] = []
    assert list(list_images(tmp_path / "x.tar", say=said.append).keys) == ["a/1.jpg"]
    assert len(said) == 1
    assert "1 links, such as 'a/2.jpg'" in said[0]


def test_a_flat_tar_is_told_so(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"a": ["1.jpg"]})
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(root / "a", ".")
    with pytest.raises(ImagesError, match="found 1 directly in it and no class folders, such as '1.jpg'|'./1.jpg'"):
        list_images(tmp_path / "x.tar")


def test_a_file_with_gaps_is_refused(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"a": ["1.jpg"]})
    with open(root / "a" / "1.jpg", "r+b") as file:
        file.truncate(1 << 20)
    subprocess.run(["tar", "--sparse", "-cf", tmp_path / "x.tar", "-C", root, "a"], check=True)
    with pytest.raises(ImagesError, match=r"'a/1.jpg': expected a file in one piece.*--sparse"):
        list_images(tmp_path / "x.tar")
