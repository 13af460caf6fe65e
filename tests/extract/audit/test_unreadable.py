"""Images that were unreadable and have been repaired: `verify --retry-unreadable` makes room, `extract` fills it."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli import main
from extract.audit.unreadable import drop_repaired
from extract.images.image_list import ImageList
from extract.teacher.timm_teacher import TimmTeacher
from store import MapStore, unreadable_rows, verify
from tests.extract.jobs import SPEC, run, shard_bytes

EXTRACT = ["--teacher", SPEC.name, "--random-weights", "0", "--num-classes", "3", "--input-size", "64"]


def tokenmix(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def torn(images: ImageList, tmp_path: Path) -> ImageList:
    """The images with rows 3, 7 and 16 torn; whole ones lie in whole/."""
    shutil.copytree(images.root, tmp_path / "whole")
    for row in (3, 7, 16):
        (images.root / images.keys[row]).write_bytes(b"\xff\xd8\xff garbage")
    return images


def mend(images: ImageList, row: int) -> None:
    shutil.copy(images.root.parent / "whole" / images.keys[row], images.root / images.keys[row])


def test_only_shards_of_repaired_images_go(torn: ImageList, teacher: TimmTeacher, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    run(torn, maps, teacher, max_errors=3)
    before = shard_bytes(maps)
    assert drop_repaired(torn, maps) == []
    mend(torn, 3)
    mend(torn, 16)
    assert drop_repaired(torn, maps) == [f"shard-0000{s}.h5: removed, images that can be read now: 1" for s in (0, 3)]
    assert run(torn, maps, teacher, max_errors=1).shards_written == 2
    assert [key for key, _ in unreadable_rows(maps)] == [torn.keys[7]]
    mend(torn, 7)
    drop_repaired(torn, maps)
    run(torn, maps, teacher)
    run(replace(torn, root=tmp_path / "whole"), tmp_path / "fresh", teacher)
    assert verify(maps).ok
    assert shard_bytes(maps) == shard_bytes(tmp_path / "fresh") != before


def test_as_the_user_does_it(torn: ImageList, tmp_path: Path) -> None:
    job = ["extract", torn.root, tmp_path / "maps", *EXTRACT, "--workers", "0", "--shard-size", "5"]
    assert tokenmix(*job, "--max-errors", "3").exit_code == 0
    for row in (3, 7, 16):
        mend(torn, row)
    again = tokenmix(*job).output
    assert "3 images were unreadable" in again
    assert "nothing to do" in again
    check = ["verify", tmp_path / "maps", "--retry-unreadable"]
    assert tokenmix(*check).exit_code == 2
    retried = tokenmix(*check, "--images", torn.root)
    assert (retried.exit_code, retried.output.count("removed, images that can be read now: 1")) == (1, 3)
    assert "3 shards written, this worker's share is complete" in tokenmix(*job).output
    assert not MapStore(tmp_path / "maps").statuses.any()
    assert tokenmix(*check, "--images", torn.root).exit_code == 0
