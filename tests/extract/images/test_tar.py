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


def packed(root: Path, path: Path, *arguments: str) -> Path:
    subprocess.run(["tar", "-cf", path, "-C", root, *arguments], check=True)
    return path


def test_links_alone_are_said_with_the_options_that_pack_them(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"a": ["1.jpg"]})
    (root / "a" / "2.jpg").hardlink_to(root / "a" / "1.jpg")
    said: list[str] = []
    list_images(packed(root, tmp_path / "x.tar", "a"), say=said.append)
    assert "--hard-dereference" in said[0]
    assert "--input-key" not in said[0]
    again = packed(root, tmp_path / "y.tar", "--hard-dereference", "a")
    assert list(list_images(again).keys) == ["a/1.jpg", "a/2.jpg"]


def test_a_folder_packed_from_inside_has_the_folders_own_keys(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"10": ["1.jpg"], "2": ["1.jpg", "0.jpg"]})
    images, folder = list_images(packed(root, tmp_path / "x.tar", ".")), list_images(root)
    assert (images.keys, images.labels.tolist()) == (folder.keys, folder.labels.tolist())
    for row in range(3):
        with images.open(row) as one, folder.open(row) as other:
            assert one.read() == other.read()


def test_what_lies_behind_a_damaged_header_or_another_tar_is_not_left_out_in_silence(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    """Python's tarfile takes both for the end."""
    root = make_folder({"a": ["1.jpg"], "b": ["1.jpg"]})
    one, both = packed(root, tmp_path / "one.tar", "a"), packed(root, tmp_path / "both.tar", "a", "b")
    joined, damaged = tmp_path / "joined.tar", tmp_path / "damaged.tar"
    joined.write_bytes(one.read_bytes() + one.read_bytes().replace(b"a/", b"b/"))
    with tarfile.open(both) as tar:
        start = tar.getmember("b").offset
    damaged.write_bytes(both.read_bytes()[:start] + b"x" * 512 + both.read_bytes()[start + 512 :])
    for path in (joined, damaged):
        with pytest.raises(ImagesError, match=r"expected nothing behind the last file of the tar.*found more"):
            list_images(path)
    assert len(list_images(both).keys) == 2


def test_a_folder_without_images_is_refused_as_in_the_unpacked_folder(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"a": ["1.jpg"], "c": ["1.jpg"]})
    (root / "b").mkdir()
    (root / ".cache").mkdir()
    for place in (root, packed(root, tmp_path / "empty.tar", ".")):
        with pytest.raises(ImagesError, match=r"/b: expected images in every class folder, found none;"):
            list_images(place)
    (root / "b" / "1.gif").write_bytes(b"GIF")
    for place in (root, packed(root, tmp_path / "others.tar", ".")):
        with pytest.raises(ImagesError, match=r"/b: expected images in every class folder, found none, but 1 \.gif"):
            list_images(place)
    assert len(list_images(packed(root, tmp_path / "x.tar", "a", "c", ".cache")).keys) == 2


@pytest.mark.parametrize("name", ["a//1.jpg", "a/./1.jpg", "a/b/../1.jpg", ".//1.jpg"])
def test_names_that_are_others_once_unpacked_are_refused(make_folder: MakeFolder, tmp_path: Path, name: str) -> None:
    root = make_folder({"a": ["1.jpg"]})
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        info = tarfile.TarInfo(name)
        info.size = (root / "a" / "1.jpg").stat().st_size
        with open(root / "a" / "1.jpg", "rb") as file:
            tar.addfile(info, file)
    with pytest.raises(ImagesError, match="another name once it is unpacked|directly in it"):
        list_images(tmp_path / "x.tar")
