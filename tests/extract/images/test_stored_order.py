"""Images that came later get shards of their own: old shards stay, rows join by key, and nothing else is let in."""

import os
import pickle
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from torchvision.datasets import ImageFolder

from cli import main
from extract.errors import ImagesError
from extract.images.classes import TeacherClasses
from extract.images.image_list import ImageList
from extract.images.listing import list_images
from extract.images.same_files import other_files
from extract.images.stored_order import in_stored_order
from extract.job.plan import missing_shards
from extract.job.progress import Report
from extract.job.run import run_job
from extract.job.status import read_status
from extract.settings import JobOptions, TeacherSpec
from extract.teacher.timm_teacher import TimmTeacher
from store import MapStore, ShardError, StoreError, StoreMismatch, read_header, repair, verify
from tests.extract.conftest import MakeFolder
from tokenmix_loader import MapDataset

OPTIONS = JobOptions(shard_rows=3, batch_size=2, decoding_processes=0)
SPEC = TeacherSpec("test_resnet", random_weights=0, num_classes=2, input_size=(64, 64))
CLASSES = TeacherClasses((0, 1), "in order")


@pytest.fixture(scope="module")
def teacher() -> TimmTeacher:
    return TimmTeacher(SPEC)


@pytest.fixture
def root(make_folder: MakeFolder) -> Path:
    return make_folder({"cat": ["1.jpg", "5.jpg"], "dog": ["1.jpg", "5.jpg"]})


def run(root: Path, store: Path, teacher: TimmTeacher, **options: Any) -> Report:
    return run_job(list_images(root), store, teacher, replace(OPTIONS, **options))


def shards(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(store.glob("shard-*.h5"))}


@pytest.fixture
def maps(root: Path, teacher: TimmTeacher, tmp_path: Path) -> Path:
    """A store of four images in shards of three."""
    run(root, tmp_path / "maps", teacher)
    return tmp_path / "maps"


Add = Callable[[Sequence[str]], None]


@pytest.fixture
def add(make_folder: MakeFolder) -> Add:
    """Put new images into the folder, between the old ones."""

    def put(keys: Sequence[str]) -> None:
        for folder, name in (key.split("/") for key in keys):
            make_folder({folder: [name]})

    return put


NEW = ["cat/3.jpg", "cat/7.jpg", "dog/0.jpg", "dog/3.jpg", "dog/6.jpg"]


def test_new_images_get_shards_of_their_own(root: Path, maps: Path, teacher: TimmTeacher, add: Add) -> None:
    before, old_keys = shards(maps), list(MapStore(maps).keys)
    add(NEW)
    report = run(root, maps, teacher, extend=True)
    assert (report.shards_written, report.progress.done) == (2, 5)
    assert before.items() <= shards(maps).items()
    store = MapStore(maps)
    assert list(store.keys) == [*old_keys, *NEW]
    assert verify(maps).problems == ()
    run(root, maps.parent / "anew", teacher)
    anew = MapStore(maps.parent / "anew")
    rows = [list(anew.keys).index(key) for key in store.keys]
    np.testing.assert_array_equal(store.labels, anew.labels[rows])
    np.testing.assert_allclose(store.read(range(9)), anew.read(rows), rtol=2e-3, atol=1e-3)  # other batches


def test_the_loader_joins_by_key(root: Path, maps: Path, teacher: TimmTeacher, add: Add) -> None:
    add(NEW)
    run(root, maps, teacher, extend=True)
    dataset = MapDataset(ImageFolder(str(root)), maps)
    keys = MapStore(maps).keys
    found = [keys[int(dataset[index][1].row)] for index in range(9)]
    assert found == [Path(path).relative_to(root).as_posix() for path, _ in ImageFolder(str(root)).samples]


def test_a_training_goes_on_meanwhile(root: Path, maps: Path, teacher: TimmTeacher, add: Add) -> None:
    """Its workers, should they start now, see the store that it has opened."""
    opened = MapStore(maps)
    add(NEW)
    run(root, maps, teacher, extend=True)
    (maps / "shard-00003.h5").unlink()  # as if it were not there yet
    with pytest.raises(ShardError, match="expected 4 shards, found 3; 1 missing: 3"):
        MapStore(maps)
    for again in (pickle.loads(pickle.dumps(opened)), MapStore(maps, extensions=0)):
        assert list(again.keys) == list(opened.keys)
        np.testing.assert_array_equal(again.read(range(4)), opened.read(range(4)))
    with pytest.raises(StoreError, match=r"not a store: expected store-2\.json"):
        MapStore(maps, extensions=2)


def test_again_and_again(root: Path, maps: Path, teacher: TimmTeacher, add: Add) -> None:
    for number, key in enumerate(["dog/0.jpg", "cat/0.jpg", "cat/9.jpg"]):
        add([key])
        assert missing_shards(list_images(root), teacher, CLASSES, maps, replace(OPTIONS, extend=True)) == 1
        assert run(root, maps, teacher, extend=True).progress.done == 1
        assert run(root, maps, teacher, extend=True).progress.done == 0
        assert run(root, maps, teacher).progress.done == 0
        assert len(read_header(maps).earlier) == number + 1
        assert verify(maps).problems == ()
    assert list(MapStore(maps).keys)[4:] == ["dog/0.jpg", "cat/0.jpg", "cat/9.jpg"]
    assert sorted(path.name for path in maps.iterdir() if path.suffix != ".h5") == [
        "store-1.json", "store-1.keys", "store-2.json", "store-2.keys", "store-3.json", "store-3.keys", "store.json",
    ]  # fmt: skip


def test_without_extend_new_images_are_refused_and_the_way_is_named(
    root: Path, maps: Path, teacher: TimmTeacher, add: Add
) -> None:
    add(NEW)
    before = shards(maps)
    with pytest.raises(StoreMismatch, match=r"dataset.digest: stored .* given .* 5 new ones: 'cat/3.jpg', .*--extend"):
        run(root, maps, teacher)
    with pytest.raises(StoreMismatch, match="5 new ones"):
        missing_shards(list_images(root), teacher, CLASSES, maps, OPTIONS)
    assert shards(maps) == before
    assert not list(maps.glob("store-*"))


@pytest.mark.parametrize("extend", [False, True])
def test_images_that_are_gone_or_moved_are_refused(
    extend: bool, root: Path, maps: Path, teacher: TimmTeacher, add: Add
) -> None:
    add(NEW)
    run(root, maps, teacher, extend=True)
    (root / "dog" / "6.jpg").rename(root / "cat" / "6.jpg")
    with pytest.raises(StoreMismatch, match=r"found that 1 are gone: 'dog/6.jpg'; give the stored list"):
        run(root, maps, teacher, extend=extend)


@pytest.mark.parametrize("extend", [False, True])
@pytest.mark.parametrize("bad", ["dog/3.jpg", "dog/6.jpg"])
def test_an_extension_with_bad_images_is_taken_back(
    bad: str, extend: bool, root: Path, maps: Path, teacher: TimmTeacher, add: Add
) -> None:
    """That of the bad image is never in place; the other may be."""
    before = {path.name: path.read_bytes() for path in maps.iterdir()}
    add(NEW)
    (root / bad).write_bytes(b"no image")
    with pytest.raises(ImagesError, match="expected at most 0 unreadable images"):
        run(root, maps, teacher, extend=True, max_errors=0)
    (root / bad).unlink()
    with pytest.raises(
        (ImagesError, StoreMismatch), match=r"or take the last extension back with `tokenmix drop-extension .*maps`"
    ):
        run(root, maps, teacher, extend=extend)
    drop = CliRunner().invoke(main, ["drop-extension", str(maps), "--yes"], catch_exceptions=False)
    assert drop.exit_code == 0, drop.output
    assert {path.name: path.read_bytes() for path in maps.iterdir()} == before
    assert run(root, maps, teacher, extend=True).progress.done == 4
    assert verify(maps).ok


@pytest.mark.parametrize("extend", [False, True])
def test_another_label_is_refused(extend: bool, root: Path, maps: Path, teacher: TimmTeacher, add: Add) -> None:
    add(["cat/3.jpg"])
    images = list_images(root)
    images.labels[images.keys.index("dog/5.jpg")] = 0
    with pytest.raises(StoreMismatch, match=r"1 have another label: 'dog/5.jpg' \(stored 1, given 0\)"):
        run_job(images, maps, teacher, replace(OPTIONS, extend=extend))


def test_another_teacher_cannot_extend(root: Path, maps: Path, add: Add) -> None:
    add(NEW)
    other = TimmTeacher(replace(SPEC, random_weights=1))
    for refused in (
        lambda: run(root, maps, other, extend=True),
        lambda: missing_shards(list_images(root), other, CLASSES, maps, replace(OPTIONS, extend=True)),
    ):
        with pytest.raises(StoreMismatch, match=r"\n  teacher.digest: stored .*\n(  .*\n)*Give the stored"):
            refused()
    assert not list(maps.glob("store-*"))


def test_a_store_with_gaps_is_finished_first(root: Path, maps: Path, teacher: TimmTeacher, add: Add) -> None:
    (maps / "shard-00001.h5").unlink()
    add(NEW)
    with pytest.raises(ImagesError, match="expected a complete store to extend, found 3 of 4 rows"):
        run(root, maps, teacher, extend=True)


def test_gaps_after_an_extension_are_filled(root: Path, maps: Path, teacher: TimmTeacher, add: Add) -> None:
    """Its order is known without the shards: some of any part may have been lost."""
    add(NEW)
    run(root, maps, teacher, extend=True)
    before = shards(maps)
    for shard in (0, 1, 3):
        (maps / f"shard-{shard:05d}.h5").unlink()
    assert read_status(maps).rows_done == 3
    assert run(root, maps, teacher).progress.done == 6
    assert shards(maps) == before


def test_speed_is_that_of_the_extension(root: Path, maps: Path, teacher: TimmTeacher, add: Add) -> None:
    add(NEW)
    run(root, maps, teacher, extend=True)
    for file in maps.iterdir():
        os.utime(file, (time.time() - 5000,) * 2)
    for name in ("store-1.json", "shard-00003.h5"):  # done since a hundred seconds ago
        os.utime(maps / name, (time.time() - 100,) * 2)
    start, stop = read_header(maps).sharding.bounds(3)
    assert read_status(maps).rate == pytest.approx((stop - start) / 100, rel=0.1)


def test_kept_from_before_is_checked_too(root: Path, maps: Path, teacher: TimmTeacher, add: Add) -> None:
    add(NEW)
    run(root, maps, teacher, extend=True)
    sound = {path: path.read_bytes() for path in maps.iterdir()}
    for name in ("store.json", "store-1.keys"):
        for at in range(0, len(sound[maps / name]), 29):
            raw = bytearray(sound[maps / name])
            raw[at] ^= 4
            (maps / name).write_bytes(raw)
            assert [name in str(problem) for problem in verify(maps).problems] == [True], at
        (maps / name).unlink()
        assert [name in str(problem) for problem in verify(maps).problems] == [True]
        assert repair(maps)[1] == [f"{name}: written again"]
        assert {path: path.read_bytes() for path in maps.iterdir()} == sound
    os.truncate(maps / "shard-00003.h5", 5000)
    assert repair(maps)[1] == ["shard-00003.h5: damaged, removed"]
    assert run(root, maps, teacher).progress.done == 2
    assert {path: path.read_bytes() for path in maps.iterdir()} == sound


def test_a_folder_of_other_classes_names_them(root: Path, maps: Path, teacher: TimmTeacher, add: Add) -> None:
    (root / "cat").rename(root / "eel")
    with pytest.raises(StoreMismatch, match="dataset.class_names: stored .'cat', 'dog'.*given .'dog', 'eel'"):
        run(root, maps, teacher, extend=True)


def test_an_unsorted_copy_of_the_list_is_refused(maps: Path, root: Path, teacher: TimmTeacher) -> None:
    images = list_images(root)
    turned = ImageList(images.root, images.keys[::-1], images.labels[::-1].copy(), images.class_names)
    for extend in (False, True):
        with pytest.raises(StoreMismatch, match=r"\n  dataset.digest: stored '\w+', given '\w+'\nGive the stored"):
            run_job(turned, maps, teacher, replace(OPTIONS, extend=extend))


def test_a_store_whose_keys_are_spelled_as_a_tar_has_them_goes_on_from_folder_and_tar(
    root: Path, teacher: TimmTeacher, tmp_path: Path
) -> None:
    """Earlier versions kept the `./` of `tar -cf x.tar .`."""
    images = list_images(root)
    dotted = replace(images, keys=[f"./{key}" for key in images.keys])
    run_job(dotted, tmp_path / "dotted", teacher, OPTIONS)
    subprocess.run(["tar", "-cf", tmp_path / "x.tar", "-C", root, "."], check=True)
    for place in (root, tmp_path / "x.tar"):
        given, _ = in_stored_order(list_images(place), tmp_path / "dotted")
        assert given.keys == dotted.keys
        assert not [*other_files(given, tmp_path / "dotted")]
    joined = MapDataset(ImageFolder(root), MapStore(tmp_path / "dotted"))
    assert [joined[number][1].row for number in range(len(images))] == [*range(len(images))]
