"""A store remembers by which columns or suffixes its images were listed, and takes lists from before it did."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

import extract
from extract import JobOptions, TeacherSpec
from extract.audit.verdict import compare_images
from extract.images.image_list import ImageList
from extract.images.listing import list_images
from extract.job.progress import Report
from extract.job.run import run_job
from extract.teacher.timm_teacher import TimmTeacher
from store import MapStore, StoreMismatch, read_header, unreadable_rows
from tests.extract.conftest import MakeFolder
from tests.extract.images.tables.test_hfds import CELL, IMAGE, TWO, Make, make
from tokenmix_loader import MapDataset

SPEC = TeacherSpec("test_resnet", random_weights=0, num_classes=2, input_size=(64, 64))
OPTIONS = JobOptions(shard_rows=3, batch_size=2, decoding_processes=0)
__all__ = ["make"]


@pytest.fixture(scope="module")
def teacher() -> TimmTeacher:
    return TimmTeacher(SPEC)


def fill(images: ImageList, store: Path, teacher: TimmTeacher, **options: Any) -> Report:
    return run_job(images, store, teacher, replace(OPTIONS, **options))


def test_columns_need_no_repetition(make: Make, tmp_path: Path) -> None:
    cells = [CELL, None, CELL]
    place, store = make(img=(IMAGE, cells), other=(IMAGE, cells), fine_label=(TWO, [0, 1, 0])), tmp_path / "maps"
    keys = replace(OPTIONS, input_key="img", target_key="fine_label", max_errors=1)
    said: list[str] = []
    assert extract.run(place, store, SPEC, keys, say=said.append).progress.done == 3
    assert list(unreadable_rows(store)) == [("000000001", "an empty cell")]
    assert extract.verify(store, images=place).problems == ()
    assert extract.run(place, store, SPEC, OPTIONS).progress.done == 0
    with pytest.raises(StoreMismatch, match=r"dataset\.input_key: stored 'img', given 'other'"):
        extract.run(place, store, SPEC, replace(keys, input_key="other"))


def webp(root: Path) -> None:
    for folder in ("a", "b"):
        Image.new("RGB", (64, 64)).save(root / folder / "x.webp")


@pytest.mark.parametrize("rows_present", [4, 3])
def test_a_store_from_before_there_were_more_suffixes_goes_on(
    make_folder: MakeFolder, tmp_path: Path, teacher: TimmTeacher, rows_present: int
) -> None:
    root, store = make_folder({"a": ["1.jpg", "2.jpg"], "b": ["1.jpg", "2.jpg"]}), tmp_path / "maps"
    fill(replace(list_images(root), listed_by={}), store, teacher)
    assert "suffixes" not in read_header(store).dataset
    if rows_present == 3:
        (store / "shard-00001.h5").unlink()
    webp(root)
    said: list[str] = []
    assert fill(list_images(root, store=store, say=said.append), store, teacher).progress.done == 4 - rows_present
    assert len(said) == 1
    assert "2 .webp, such as 'a/x.webp'" in said[0]
    assert compare_images(store, list_images(root, store=store)) == ()


def test_more_suffixes_extend_a_store(make_folder: MakeFolder, tmp_path: Path, teacher: TimmTeacher) -> None:
    root, store = make_folder({"a": ["1.jpg", "2.jpg"], "b": ["1.jpg", "2.jpg"]}), tmp_path / "maps"
    fill(list_images(root, input_key="jpg"), store, teacher)
    webp(root)
    with pytest.raises(StoreMismatch, match=r"2 new ones: 'a/x.webp', .*--extend"):
        fill(list_images(root, input_key="jpg;webp", store=store), store, teacher)
    more = list_images(root, input_key="jpg;webp", store=store)
    assert fill(more, store, teacher, extend=True).progress.done == 2
    again = list_images(root, store=store)
    assert len(again) == 6
    assert compare_images(store, again) == ()
    assert fill(again, store, teacher).progress.done == 0
    assert len(MapDataset(ImageFolder(str(root)), store)) == 6


def test_a_store_in_the_order_in_which_ties_once_were_listed_goes_on(
    make_folder: MakeFolder, tmp_path: Path, teacher: TimmTeacher
) -> None:
    root, store = make_folder({"a": ["1.jpg", "01.jpg"], "b": ["1.jpg", "2.jpg"]}), tmp_path / "maps"
    now = list_images(root)
    assert list(now.keys) == ["a/01.jpg", "a/1.jpg", "b/1.jpg", "b/2.jpg"]
    fill(replace(now, keys=[now.keys[row] for row in (1, 0, 2, 3)]), store, teacher)
    assert compare_images(store, now) == ()
    assert fill(now, store, teacher).progress.done == 0
    Image.new("RGB", (64, 64)).save(root / "b" / "3.jpg")
    assert fill(list_images(root), store, teacher, extend=True).progress.done == 1
    assert list(MapStore(store).keys) == ["a/1.jpg", "a/01.jpg", "b/1.jpg", "b/2.jpg", "b/3.jpg"]
    turned = replace(now, keys=now.keys[::-1], labels=now.labels[::-1].copy())
    with pytest.raises(StoreMismatch):
        fill(turned, store, teacher)
