"""WebDataset shards as people make them: labels elsewhere or not in digits, dotted names, several images."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from timm.data.readers.reader_wds import _decode
from webdataset.tariterators import base_plus_ext

from extract.errors import ImagesError
from extract.images.image_list import ImageList
from extract.images.listing import list_images
from extract.images.tables.rows import MAX_CLASSES


def encoded(kind: str = "JPEG", side: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, kind)
    return file.getvalue()


JPG = encoded()


def shard(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def listed(root: Path, members: dict[str, bytes], **given: Any) -> tuple[ImageList, list[str]]:
    """The images of one shard, and what the user is told."""
    said: list[str] = []
    shard(root / "0.tar", members)
    return list_images(f"wds/{root}", say=said.append, **given), said


@pytest.mark.parametrize("raw", [b"cat", b"\0", b"", b"1.5", b"-1", b"%d" % 2**40, b"%d" % MAX_CLASSES, "²".encode()])
def test_a_label_that_is_no_class_index_is_refused_by_name(tmp_path: Path, raw: bytes) -> None:
    with pytest.raises(ImagesError, match=r"0\.tar: 'a/0.cls': expected a class index") as caught:
        listed(tmp_path, {"a/0.jpg": JPG, "a/0.cls": raw})
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("raw", [b"3", b" 3\n", b"003", b"+3"])
def test_digits_are_read_as_timm_reads_them(tmp_path: Path, raw: bytes) -> None:
    images, said = listed(tmp_path, {"0.jpg": JPG, "0.cls": raw})
    assert images.labels.tolist() == [_decode({"jpg": JPG, "cls": raw})["target"]] == [3]
    assert (images.class_names, said) == (["0", "1", "2", "3"], [])


def test_what_is_skipped_is_counted_with_an_example(tmp_path: Path) -> None:
    members = {"0.jpg": JPG, "0.cls": b"0", "1.webp": encoded("WEBP"), "1.cls": b"1", "2.gif": JPG, "2.cls": b"0"}
    dotted = {"22.05.jpg": JPG, "22.05.cls": b"1", "._0.jpg": b"Mac OS X"}
    images, said = listed(tmp_path, members | dotted)
    assert list(images.keys) == ["0", "1"]
    assert len(said) == 1
    for part in ("1 .05.jpg", "1 .05.cls", "1 .gif", "such as '0.tar/._0.jpg'", "--input-key"):
        assert part in said[0], said


def test_keys_and_suffixes_are_cut_as_webdataset_cuts_them(tmp_path: Path) -> None:
    names = ["a/0.jpg", "b.c/1.jpg", "./2.jpg", "d/3.x.jpg", ".4.jpg", ".jpg", "F.JPG"]
    images, _ = listed(tmp_path, dict.fromkeys(names, JPG) | {f"{n.rpartition('.')[0]}.cls": b"0" for n in names})
    theirs = [base_plus_ext(name) for name in names]
    assert list(images.keys) == [key for key, suffix in theirs if key and suffix.lower() == "jpg"]


def test_only_dotted_names(tmp_path: Path) -> None:
    with pytest.raises(ImagesError, match=r"found no image, but 1 .05.cls, 1 .05.jpg, such as .*first dot"):
        listed(tmp_path, {"22.05.jpg": JPG, "22.05.cls": b"1"})
    images, _ = listed(tmp_path, {"22.05.jpg": JPG, "22.cls": b"1"}, input_key="05.jpg")
    assert list(images.keys) == ["22"]


def test_labels_in_json(tmp_path: Path) -> None:
    meta = [{"label": 1, "text": "dog", "deep": {"label": 0}}, {"label": 0, "text": "cat", "deep": {"label": 2}}]
    members = {
        f"{n}.{kind}": data for n in (0, 1) for kind, data in (("jpg", JPG), ("json", json.dumps(meta[n]).encode()))
    }
    for key, labels in (("label", [1, 0]), ("deep/label", [0, 2])):
        images, said = listed(tmp_path, members, target_key=key)
        theirs = [_decode({"jpg": JPG, "json": members[f"{n}.json"]}, target_key=key)["target"] for n in (0, 1)]
        assert (images.labels.tolist(), said) == (theirs, []) == (labels, [])
    with pytest.raises(ImagesError, match=r"'0.json': expected a field 'klass', found 'label', 'text', 'deep'"):
        listed(tmp_path, members, target_key="klass")
    with pytest.raises(ImagesError, match=r"'0.json': 'text': expected a class index in digits, found 'dog'"):
        listed(tmp_path, members, target_key="text")
    with pytest.raises(ImagesError, match=r"'0.jpg': expected a label in .cls .* 2 .json.*--target-key"):
        listed(tmp_path, members)


@pytest.mark.parametrize("value", [None, -1, 0.5, [1], {"a": 1}, float("inf")])
def test_json_without_a_class_index(tmp_path: Path, value: object) -> None:
    with pytest.raises(ImagesError, match=r"0\.tar: '0.json': 'label': expected a class index"):
        listed(tmp_path, {"0.jpg": JPG, "0.json": json.dumps({"label": value}).encode()}, target_key="label")


@pytest.mark.parametrize("raw", [b"{", b"\xff", b"[1]", b"3"])
def test_json_that_is_none(tmp_path: Path, raw: bytes) -> None:
    with pytest.raises(ImagesError, match=r"0\.tar: '0.json': expected"):
        listed(tmp_path, {"0.jpg": JPG, "0.json": raw}, target_key="label")


def test_of_several_images_the_chosen_one_counts(tmp_path: Path) -> None:
    members = {"0.png": encoded("PNG", 16), "0.jpg": JPG, "0.cls": b"0", "1.jpg": JPG, "1.cls": b"0"}
    with pytest.raises(ImagesError, match=r"'0.png': expected one image per sample, found '0.jpg' too; .*--input-key"):
        listed(tmp_path, members)
    for key, first in (("jpg", JPG), ("png;jpg", members["0.png"]), ("jpg;png", JPG)):
        images, _ = listed(tmp_path, members, input_key=key)
        assert [images.open(row).read() for row in range(2)] == [first, JPG]
        assert images.header().get("input_key") == (None if key == "jpg" else key)


def test_shards_come_in_one_order(tmp_path: Path) -> None:
    for name in ("10", "9", "09", "A", "a"):
        shard(tmp_path / f"{name}.tar", {f"{name}.jpg": JPG, f"{name}.cls": b"0"})
    (tmp_path / "._9.tar").write_bytes(b"Mac OS X")
    assert list(list_images(f"wds/{tmp_path}").keys) == ["09", "9", "10", "A", "a"]


def test_compressed_shards_and_no_shards(tmp_path: Path) -> None:
    with pytest.raises(ImagesError, match="a folder of WebDataset's .tar shards, found no such folder"):
        list_images(f"wds/{tmp_path}/none")
    with tarfile.open(tmp_path / "0.tar.gz", "w:gz"):
        pass
    with pytest.raises(ImagesError, match="a compressed file; .*gunzip -c"):
        list_images(f"wds/{tmp_path}")


def test_a_second_label_of_a_key_is_refused_and_not_taken(tmp_path: Path) -> None:
    """In another shard it would be that of another sample."""
    shard(tmp_path / "1.tar", {"b.jpg": JPG, "b.cls": b"0", "a.cls": b"1"})
    with pytest.raises(ImagesError, match=r"1\.tar: 'a.cls': expected one label per key, found .*0\.tar: 'a.cls' too"):
        listed(tmp_path, {"a.jpg": JPG, "a.cls": b"0"})


def test_a_compressed_shard_beside_plain_ones_is_refused_until_it_is_unpacked(tmp_path: Path) -> None:
    members = {"a.jpg": JPG, "a.cls": b"0"}
    with tarfile.open(tmp_path / "1.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("b.jpg"))
    with pytest.raises(ImagesError, match=r"1\.tar\.gz: expected an uncompressed tar.*gunzip -c"):
        listed(tmp_path, members)
    shard(tmp_path / "1.tar", {"b.jpg": JPG, "b.cls": b"0"})
    assert list(listed(tmp_path, members)[0].keys) == ["a", "b"]


def test_a_folder_whose_shards_lie_deeper_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(ImagesError, match=r"shards, found 'train'; give the folder in which they lie themselves"):
        list_images(f"wds/{tmp_path}")
