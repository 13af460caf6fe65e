"""A job that goes on, or an import, is refused other files of the same names; nothing else stops it."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from extract.images import same_files
from extract.images.classes import TeacherClasses
from extract.images.image_list import ImageList
from extract.images.listing import list_images
from extract.images.same_files import other_files
from extract.job.plan import missing_shards
from extract.teacher.timm_teacher import TimmTeacher
from store import MapStore, StoreMismatch, read_header, verify
from store.fingerprint import fingerprint_of_bytes
from store.spec import shard_name
from tests.extract.jobs import OPTIONS, run, shard_bytes


@pytest.fixture
def images(made: Path, tmp_path: Path) -> ImageList:
    return list_images(shutil.copytree(made / "images", tmp_path / "images"))


@pytest.fixture
def others(made: Path, tmp_path: Path) -> ImageList:
    return list_images(shutil.copytree(made / "others", tmp_path / "others"))


@pytest.fixture
def maps(made: Path, tmp_path: Path) -> Path:
    """A store of which shard 2 is missing."""
    shutil.copytree(made / "maps", tmp_path / "maps")
    (tmp_path / "maps" / shard_name(2)).unlink()
    return tmp_path / "maps"


def test_what_is_stored(images: ImageList, teacher: TimmTeacher, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(images.root / images.keys[3]).save(images.root / images.keys[3], exif=exif)
    (images.root / images.keys[7]).write_bytes(b"\xff\xd8\xff garbage")
    run(images, tmp_path / "maps", teacher, max_errors=1)
    store = MapStore(tmp_path / "maps")
    expected = [fingerprint_of_bytes((images.root / key).read_bytes()) for key in images.keys]
    assert store.fingerprints.tolist() == expected
    assert store.orientations.tolist() == [6 if row == 3 else 0 if row == 7 else 1 for row in range(18)]


def test_other_files_stop_a_resume(images: ImageList, others: ImageList, teacher: TimmTeacher, maps: Path) -> None:
    before = shard_bytes(maps)
    with pytest.raises(StoreMismatch, match=r"of 13 files compared 13 are not .*\n  cat/0.jpg: expected the file"):
        run(others, maps, teacher)
    classes = TeacherClasses((0, 1, 2), "in order")
    with pytest.raises(StoreMismatch, match="of 13 files compared 13 are not"):
        missing_shards(others, teacher, classes, maps, OPTIONS)
    assert shard_bytes(maps) == before
    assert missing_shards(images, teacher, classes, maps, OPTIONS) == 1
    assert run(images, maps, teacher).shards_written == 1


def test_other_files_stop_an_extension(images: ImageList, others: ImageList, teacher: TimmTeacher, maps: Path) -> None:
    run(images, maps, teacher)
    for root in (images.root, others.root):
        shutil.copy(others.root / "cat" / "0.jpg", root / "cat" / "9.jpg")
    with pytest.raises(StoreMismatch, match="of 18 files compared 18 are not"):
        run(list_images(others.root), maps, teacher, extend=True)
    assert len(read_header(maps).earlier) == 0
    assert run(list_images(images.root), maps, teacher, extend=True).shards_written == 1
    assert len(MapStore(maps)) == 19


def test_another_configuration_is_what_is_said_first(others: ImageList, teacher: TimmTeacher, maps: Path) -> None:
    with pytest.raises(StoreMismatch, match="dtype: stored 'float16', given 'float32'"):
        run(others, maps, teacher, dtype="float32")


def test_lost_files_do_not_stop_a_resume(images: ImageList, teacher: TimmTeacher, maps: Path) -> None:
    """Rows that are stored need no image any more."""
    (images.root / images.keys[0]).unlink()
    assert run(images, maps, teacher).shards_written == 1


def test_repaired_files_do_not_stop_a_resume(images: ImageList, teacher: TimmTeacher, tmp_path: Path) -> None:
    file = images.root / images.keys[1]
    whole = file.read_bytes()
    file.write_bytes(b"torn")
    run(images, tmp_path / "maps", teacher, max_errors=1)
    (tmp_path / "maps" / shard_name(3)).unlink()
    file.write_bytes(whole)
    assert run(images, tmp_path / "maps", teacher, max_errors=1).shards_written == 1


def test_a_store_without_fingerprints_goes_on_without(
    images: ImageList, others: ImageList, teacher: TimmTeacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = tmp_path / "maps"
    with monkeypatch.context() as before_there_were_any:
        before_there_were_any.setattr("extract.job.run.columns_of", lambda _: ())
        run(images, maps, teacher)
    whole = shard_bytes(maps)
    (maps / shard_name(2)).unlink()
    assert run(images, maps, teacher).shards_written == 1
    assert shard_bytes(maps) == whole
    assert verify(maps).ok
    shutil.copy(images.root / "cat" / "0.jpg", images.root / "cat" / "9.jpg")
    assert run(list_images(images.root), maps, teacher, extend=True).shards_written == 1
    assert read_header(maps).columns == ()
    assert MapStore(maps).fingerprints.tolist() == [0] * 19
    assert list(other_files(others, maps)) == []


def test_the_sample_is_spread_over_what_is_there(
    images: ImageList, teacher: TimmTeacher, maps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []
    monkeypatch.setattr(same_files, "_difference", lambda _images, row, _fingerprint: opened.append(row))
    assert list(other_files(images, maps, 4)) == []
    assert sorted(opened) == [0, 4, 8, 17]


def test_damaged_shards_are_left_out(images: ImageList, others: ImageList, maps: Path) -> None:
    (maps / shard_name(0)).write_bytes(b"torn")
    assert [row for row, _ in other_files(others, maps)] == [5, 6, 7, 8, 9, 15, 16, 17]


def test_every_byte_counts_that_is_compared(images: ImageList, maps: Path) -> None:
    file = images.root / images.keys[6]
    raw = bytearray(file.read_bytes())
    stored = fingerprint_of_bytes(bytes(raw))
    raw[-1] ^= 1
    file.write_bytes(raw)
    ((row, found),) = other_files(images, maps)
    assert row == 6
    assert found == (
        f"expected the file that its map was made from, fingerprint {stored:016x}, found "
        f"{fingerprint_of_bytes(bytes(raw)):016x}, {len(raw)} bytes"
    )
