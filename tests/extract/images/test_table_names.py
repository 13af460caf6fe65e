"""Containers by scheme: the same images from any working directory, so that a Slurm task finds what `submit` found."""

import shlex
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli import main
from extract.images.listing import list_images
from extract.images.table_names import absolute_images
from store import MapStore
from tests.extract.conftest import MakeFolder


def tokenmix(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def test_local_folders_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "x:y").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    expected = {
        "data": f"{tmp_path}/data",
        "wds/data": f"wds/{tmp_path}/data",
        "wds/data/x:y": f"wds/{tmp_path}/data/x:y",
        f"wds/{tmp_path}/data": f"wds/{tmp_path}/data",
        "hfds/data:test": f"hfds/{tmp_path}/data:test",
        "hfds/someone/digits:test": "hfds/someone/digits:test",
        "wds": f"{tmp_path}/wds",
    }
    assert {given: absolute_images(Path(given)) for given in expected} == expected
    monkeypatch.chdir("/")
    assert [absolute_images(Path(absolute)) for absolute in expected.values()] == [*expected.values()]


def test_a_task_lists_what_submit_listed(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = make_folder({"a": ["1.jpg"]}) / "a" / "1.jpg"
    (tmp_path / "shards").mkdir()
    (tmp_path / "1.cls").write_text("0")
    with tarfile.open(tmp_path / "shards" / "0.tar", "w") as tar:
        tar.add(photo, "1.jpg")
        tar.add(tmp_path / "1.cls", "1.cls")
    monkeypatch.chdir(tmp_path)
    teacher = ["--teacher", "test_resnet", "--random-weights", "0", "--num-classes", "1", "--input-size", "64"]
    script = tokenmix("submit", "wds/shards", "maps", *teacher, "--workers", "0", "--tasks", "1", "--dry-run").output
    line = next(line for line in script.splitlines() if " --worker " in line)
    monkeypatch.chdir("/")
    task = shlex.split(line.partition(" --worker ")[0])[1:]
    done = tokenmix(*task)
    assert done.exit_code == 0, done.output
    assert list(MapStore(tmp_path / "maps").keys) == ["1"]
    assert list_images(task[1]).root == tmp_path / "shards"
