"""verify --images: every file that is not the one of its row is named, and what cannot be compared is said."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import main
from extract.audit.verdict import compare_files, compare_images, verify_all
from extract.images.listing import list_images
from store import MapStore, StoreMismatch, create_store, read_header
from store.spec import Json, shard_name


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """Its images, others, and maps."""
    return Path(shutil.copytree(made, tmp_path / "made"))


def change(root: Path, row: int) -> str:
    key = MapStore(root / "maps").keys[row]
    shutil.copy(root / "others" / key, root / "images" / key)
    return key


def test_every_other_file_is_named(root: Path) -> None:
    assert verify_all(root / "maps", images=root / "images").problems == ()
    keys = {row: change(root, row) for row in (4, 5, 17)}
    verdict = verify_all(root / "maps", images=root / "images")
    assert [line.partition(": expected the file")[0] for line in verdict.problems] == [
        f"{shard_name(row // 5)}, row {row}, key {key!r}" for row, key in keys.items()
    ]
    (remedy,) = verdict.done
    assert "of 18 files compared 3 are not" in remedy
    assert "remove shard-00000.h5, shard-00001.h5, shard-00003.h5 and run `tokenmix extract` again" in remedy


def test_a_lost_file_is_named(root: Path) -> None:
    images, key = list_images(root / "images"), MapStore(root / "maps").keys[3]
    (root / "images" / key).unlink()
    (problem,), _ = compare_files(root / "maps", images)
    assert problem.startswith(
        f"shard-00000.h5, row 3, key {key!r}: expected the file that its map was made from, found "
    )
    assert "No such file" in problem


def test_a_sample(root: Path) -> None:
    compared: list[int] = []
    change(root, 17)
    change(root, 3)
    verdict = verify_all(root / "maps", images=root / "images", sample=2, on_compared=compared.append)
    assert [line.split(",")[1] for line in verdict.problems] == [" row 17"]
    assert sum(compared) == 2
    assert verify_all(root / "maps", images=root / "images", sample=0).ok


def test_nothing_else_is_done_with_other_files(root: Path) -> None:
    change(root, 9)
    verdict = verify_all(root / "maps", images=root / "images", retry_unreadable=True, deep=2)
    assert len(verdict.problems) == 1
    assert [line.partition(" was left out")[0] for line in verdict.done[1:]] == ["--retry-unreadable", "--deep"]


def test_damaged_shards_are_left_to_the_other_checks(root: Path) -> None:
    change(root, 0)
    (root / "maps" / shard_name(0)).write_bytes(b"torn")
    (root / "maps" / shard_name(1)).unlink()
    change_other = root / "images" / list_images(root / "images").keys[16]
    change_other.write_bytes(b"another file")
    problems = verify_all(root / "maps", images=root / "images").problems
    assert [line.split(":")[0].split(",")[0] for line in problems] == [shard_name(shard) for shard in (0, 1, 3)]


def test_a_store_without_fingerprints_says_so(root: Path, tmp_path: Path) -> None:
    create_store(tmp_path / "old", replace(read_header(root / "maps"), columns=()))
    assert compare_files(tmp_path / "old", list_images(root / "others")) == (
        (),
        ("files were not compared: the store was begun before fingerprints were kept; names and labels fit",),
    )


def test_as_the_user_does_it(root: Path) -> None:
    def tokenmix(*arguments: object) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["verify", *map(str, arguments)], catch_exceptions=False)
        return done.exit_code, done.output

    assert tokenmix(root / "maps", "--images", root / "images")[0] == 0
    code, output = tokenmix(root / "maps", "--images", root / "others", "--sample", "5")
    assert (code, output.count("expected the file that its map was made from")) == (1, 5)
    assert "of 5 files compared 5 are not" in output
    assert tokenmix(root / "maps", "--sample", "5")[0] == 2


@pytest.mark.parametrize("given", [{"deep": 2}, {"sample": 3}, {"retry_unreadable": True}])
def test_what_needs_images_is_not_left_out_in_silence(root: Path, given: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"verify: {next(iter(given))}=.*: expected images"):
        verify_all(root / "maps", **given)  # type: ignore[arg-type]


def test_of_many_classes_the_first_that_differs_is_named(root: Path, tmp_path: Path) -> None:
    names: list[Json] = [f"class {number:02}" for number in range(30)]
    header = read_header(root / "maps")
    dataset: dict[str, Json] = {**header.dataset, "class_names": names, "teacher_class": [0] * 30}
    other = replace(header, dataset={**dataset, "class_names": [*names[:20], "other", *names[21:]]})
    header = replace(header, dataset=dataset)
    create_store(tmp_path / "many", header)
    listed = replace(list_images(root / "images"), class_names=other.dataset["class_names"])  # type: ignore[arg-type]
    (line,) = compare_images(tmp_path / "many", listed)
    assert line.endswith("class names differ from the store's: class_names[20]: expected 'class 20', found 'other'")
    with pytest.raises(StoreMismatch, match=r"dataset.class_names\[20\]: stored 'class 20', given 'other'"):
        header.require(other, "maps")
