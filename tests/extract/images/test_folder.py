"""What lies in class folders beside plain images: other suffixes, links to nothing, folders that fail, pipes."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from timm.data import create_dataset
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from extract.errors import ImagesError, NoImageError
from extract.images.listing import list_images
from extract.job.decoding import Decoder
from extract.teacher.preprocess import Preprocessing
from tests.extract.conftest import MakeFolder

GIVEN: dict[str, Any] = {"crop_mode": "squash", "crop_pct": 1.0, "interpolation": "bilinear"}
PREPROCESSING = Preprocessing(input_size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3, **GIVEN)


def listed(root: Path, **given: Any) -> tuple[list[str], list[str]]:
    """Keys, and what the user is told."""
    said: list[str] = []
    return list(list_images(root, say=said.append, **given).keys), said


def test_what_torchvision_loads_is_listed(make_folder: MakeFolder) -> None:
    root = make_folder({"a": ["1.JPG"], "b": ["1.jpg"]})
    for suffix in IMG_EXTENSIONS:
        Image.new("RGB", (8, 8)).save(root / "a" / f"x{suffix}")
    Image.new("RGB", (8, 8)).save(root / "a" / "x.gif")
    keys, said = listed(root)
    theirs = ImageFolder(str(root))
    assert set(keys) == {os.path.relpath(path, root) for path, _ in theirs.samples}
    assert [(line.count("1 .gif, such as 'a/x.gif'"), line.count("--input-key")) for line in said] == [(1, 1)]
    images = list_images(root)
    assert all(Decoder(images, PREPROCESSING)[row].error == "" for row in range(len(images)))


def test_suffixes_can_be_chosen_as_timms(make_folder: MakeFolder) -> None:
    root = make_folder({"a": ["1.jpg", "2.png"], "b": ["1.jpg"]})
    Image.new("RGB", (8, 8)).save(root / "b" / "x.gif")
    keys, said = listed(root, input_key=".jpg;.gif")
    assert keys == create_dataset("", str(root), input_key=".jpg;.gif").filenames() == ["a/1.jpg", "b/1.jpg", "b/x.gif"]
    assert len(said) == 1
    assert "1 .png, such as 'a/2.png'" in said[0]


def test_nothing_is_said_of_plain_folders(make_folder: MakeFolder) -> None:
    assert listed(make_folder({"a": ["1.jpg"]})) == (["a/1.jpg"], [])


def test_files_of_macos_are_said(make_folder: MakeFolder) -> None:
    root = make_folder({"a": ["1.jpg"]})
    (root / "a" / "._1.jpg").write_bytes(b"\0\5\x16\7Mac OS X")
    keys, said = listed(root)
    assert keys == ["a/1.jpg", "a/._1.jpg"]
    assert "1 files such as 'a/._1.jpg' are macOS's" in said[0]


def test_a_class_of_other_suffixes_is_no_empty_class(make_folder: MakeFolder) -> None:
    root = make_folder({"a": ["1.jpg"], "b": []})
    Image.new("RGB", (8, 8)).save(root / "b" / "x.gif")
    with pytest.raises(ImagesError, match=r"images/b: .*none, but 1 \.gif, such as 'b/x.gif';.*--input-key"):
        list_images(root)


def test_a_flat_folder_is_told_so(make_folder: MakeFolder) -> None:
    root = make_folder({".": ["1.jpg", "2.jpg"]})
    with pytest.raises(ImagesError, match=r"found 2 directly in it and no class folders, such as '1.jpg';.*--kind"):
        list_images(root)


def test_a_link_to_nothing_is_an_image_that_cannot_be_read(make_folder: MakeFolder) -> None:
    root = make_folder({"a": ["1.jpg"]})
    for name, target in (("gone.jpg", "/nowhere/x.jpg"), ("self.jpg", "self.jpg"), ("file.jpg", "1.jpg/x")):
        (root / "a" / name).symlink_to(target)
    (root / "a" / "notes.txt").symlink_to("/nowhere")
    images = list_images(root)
    samples = {key: Decoder(images, PREPROCESSING)[row] for row, key in enumerate(images.keys)}
    assert samples.keys() == {"a/1.jpg", "a/gone.jpg", "a/self.jpg", "a/file.jpg"}
    assert {key: (sample.error, sample.fault) for key, sample in samples.items()} == {
        key: ("" if key == "a/1.jpg" else "a link to nothing", "") for key in samples
    }


def test_a_link_that_led_somewhere_fails_with_its_mount(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"a": ["1.jpg"]})
    mount = make_folder({"a": ["2.jpg"]}, "mount")
    (root / "a" / "2.jpg").symlink_to(mount / "a" / "2.jpg")
    images = list_images(root)
    mount.rename(tmp_path / "unmounted")
    with pytest.raises(FileNotFoundError):
        images.open(1)
    assert "2.jpg" in Decoder(images, PREPROCESSING)[1].fault
    (root / "a" / "1.jpg").unlink()
    with pytest.raises(ImagesError, match=r"1 links to nothing, such as 'a/2.jpg', .*mount/a/2.jpg; check the mount"):
        list_images(root)


def test_a_link_that_was_mended_is_read(make_folder: MakeFolder) -> None:
    root = make_folder({"a": ["1.jpg"]})
    (root / "a" / "2.jpg").symlink_to("3.jpg")
    images = list_images(root)
    with pytest.raises(NoImageError):
        images.open(1)
    (root / "a" / "1.jpg").rename(root / "a" / "3.jpg")
    with images.open(1) as file:
        assert file.read(2) == b"\xff\xd8"


def test_a_class_folder_behind_a_broken_link_is_missed(make_folder: MakeFolder) -> None:
    """Without it the classes behind it would have other labels."""
    root = make_folder({"a": ["1.jpg"], "c": ["1.jpg"]})
    (root / "b").symlink_to("/nowhere/b")
    with pytest.raises(ImagesError, match="'b', a link to nothing"):
        list_images(root)


def test_a_folder_that_cannot_be_listed_is_missed(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    root, real = make_folder({"a": ["1.jpg"], "b": ["1.jpg"]}), os.scandir

    def scandir(path: Path) -> Any:
        if Path(path).name == "a":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(ImagesError, match=r"images/a: .*Input/output error; .*check the mount"):
        list_images(root)


def test_class_folders_may_be_links_and_deep(make_folder: MakeFolder, tmp_path: Path) -> None:
    make_folder({"cat": ["1.jpg"]}, "elsewhere")
    root = make_folder({"pets/dog": ["1.jpg"]})
    (root / "pets" / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
    images = list_images(root)
    assert (list(images.keys), images.class_names) == (["pets/cat/1.jpg", "pets/dog/1.jpg"], ["cat", "dog"])


def test_a_pipe_is_never_opened(make_folder: MakeFolder) -> None:
    root = make_folder({"a": ["1.jpg"]})
    os.mkfifo(root / "a" / "2.jpg")
    keys, said = listed(root)
    assert keys == ["a/1.jpg"]
    assert "1 .jpg, such as 'a/2.jpg'" in said[0]


def test_a_key_of_tables_is_refused(make_folder: MakeFolder) -> None:
    with pytest.raises(ImagesError, match="--target-key with hfds/ or wds/ only, found 'label'"):
        list_images(make_folder({"a": ["1.jpg"]}), target_key="label")


def test_two_folders_that_link_to_each_other_are_refused_where_they_do(make_folder: MakeFolder) -> None:
    """Followed, they would be walked some 40 levels deep, and with a third one for ever."""
    root = make_folder({"a": ["1.jpg"], "b": ["1.jpg"]})
    (root / "a" / "other").symlink_to("../b")
    (root / "b" / "other").symlink_to("../a")
    with pytest.raises(ImagesError, match=r"links that lead back up, found '.*/(a|b)/other/other'; remove it"):
        list_images(root)


def test_what_macos_packs_beside_a_folder_is_named(make_folder: MakeFolder) -> None:
    root = make_folder({"a": ["1.jpg"], "__MACOSX/a": ["._1.jpg"]})
    with pytest.raises(ImagesError, match="found '(a|__MACOSX/a)' and '(a|__MACOSX/a)'; delete __MACOSX"):
        list_images(root)


def test_a_python_that_reads_names_in_another_encoding_is_told_so(make_folder: MakeFolder) -> None:
    """The names are right, and need no other ones."""
    root = make_folder({"é": ["1.jpg"]})
    code = f"from extract.images.listing import list_images; list_images({os.fspath(root)!r})"
    environ = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    run = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
    assert "which is UTF-8, but this Python reads names in another encoding: set PYTHONUTF8=1" in run.stderr


def test_a_hidden_folder_that_becomes_a_class_is_said(make_folder: MakeFolder) -> None:
    """ImageFolder and timm take it for one, too."""
    said: list[str] = []
    root = make_folder({"a": ["1.jpg"], ".ipynb_checkpoints": ["1-checkpoint.jpg"]})
    assert list_images(root, say=said.append).class_names == ImageFolder(root).classes == [".ipynb_checkpoints", "a"]
    assert "'.ipynb_checkpoints' of 2 classes are hidden folders" in said[0]
