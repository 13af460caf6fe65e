"""docs/first-hour.md: its quick start trains a student, and each mistake on it says what stands there.

As on the page, in one folder and in this order, with smaller models: a teacher with random weights sees as little as
it may, and the messages are the same.
"""

import re
import shlex
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import cli
from recipes.train import train
from tests.docs.blocks import ROOT, blocks_of

PAGE = ROOT / "docs" / "first-hour.md"
BLOCKS = list(blocks_of(PAGE))
(QUICK_START,) = (block for block in BLOCKS if block.language == "console")
SLURM = next(block for block in BLOCKS if block.text.startswith("tokenmix submit"))
MISTAKES = [block.text for block in BLOCKS if block.language == "text"]
PROGRAMS: dict[str, click.Command] = {"tokenmix": cli.main, "python -m recipes.train.train": train.main}
QUICK = {
    "--teacher efficientnet_lite0": "--teacher test_resnet --random-weights 0 --input-size 64",
    "--batch-size 64": "--batch-size 8",
    "--batch-size 32": "--batch-size 4",
    "--epochs 100": "--epochs 1",
    "--model deit_tiny_patch16_224": "--model test_vit --workers 0",
}


def run(line: str) -> tuple[int, str]:
    """Exit status and output of a command on the page, made small."""
    for said, small in QUICK.items():
        line = line.replace(said, small)
    if line.startswith(("tokenmix fit-head", "tokenmix plan", "tokenmix extract", "tokenmix submit")):
        line += " --workers 0"
    program = next(program for program in PROGRAMS if line.startswith(program))
    done = CliRunner().invoke(PROGRAMS[program], shlex.split(line.removeprefix(program)), catch_exceptions=False)
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a newcomer has: images of three classes, some of them put aside, and some with another suffix."""
    root, rng = tmp_path_factory.mktemp("desk"), np.random.default_rng(0)
    for label, name in enumerate(["rose", "sunflower", "tulip"]):
        for folder, prefix, count, suffix in (
            ("photos", "", 8, "jpg"), ("photos-val", "val-", 4, "jpg"), ("gifs", "", label != 1, "gif"),
        ):  # fmt: skip
            (root / folder / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(60 * label, 60 * label + 90, (70 + number, 80, 3), np.uint8)
                Image.fromarray(pixels).save(root / folder / name / f"{prefix}{number}.{suffix}")
    return root


@pytest.fixture(scope="module")
def trained(desk: Path) -> Path:
    """The same after the quick start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(desk)
        for words in QUICK_START.commands[1:]:
            status, output = run(shlex.join(words))
            assert status == 0, f"{words}\n{output}"
    return desk


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    monkeypatch.setenv("PATH", str(tmp_path))  # no Slurm, wherever this runs
    return trained


def test_the_quick_start_is_short_and_begins_with_the_installation() -> None:
    assert QUICK_START.commands[0][:2] == ["pip", "install"]  # by .ci/run, in a clean clone
    assert len(QUICK_START.commands) <= 10


def test_the_quick_start_leaves_maps_a_picture_and_a_student(here: Path) -> None:
    with Image.open("maps.png") as picture:
        assert picture.width > 400
    assert {path.name for path in Path("runs/first").iterdir()} >= {"last.pt", "settings.json"}
    assert run("tokenmix status maps")[0] == 0


def test_the_script_for_slurm(here: Path) -> None:
    status, output = run(SLURM.text.strip().replace(" maps ", " maps2 "))  # those of `maps` are done
    assert status == 0, output
    assert "#SBATCH --array=0-0" in output


@pytest.mark.parametrize("block", MISTAKES, ids=[text.partition("\n")[0][2:60] for text in MISTAKES])
def test_a_mistake_says_what_the_page_says(block: str, here: Path) -> None:
    line, _, said = block.partition("\n")
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*")}
    status, output = run(line.removeprefix("$ "))
    assert status == (
        0 if "nothing to do" in said else 2 if said.startswith("Error: ") and "recipes" not in line else 1
    )
    pattern = ".*".join(map(re.escape, said.strip().split("...")))
    assert re.search(pattern, output, re.S), output
    assert "Traceback" not in output
    assert {path: path.stat().st_mtime_ns for path in here.rglob("*")} == before  # nothing was written or changed


def test_there_are_mistakes_at_each_step() -> None:
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.M)
    for title in ("Fitting the head", "Extracting", "Looking at the maps", "Training"):
        (section,) = (text for text in sections if text.startswith(title))
        assert section.count("```text\n$ ") >= 2, title
