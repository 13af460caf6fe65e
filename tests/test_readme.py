"""The README says what was measured, and its five lines run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.table import BEGIN, END, PAGE, README, table
from cli import main
from recipes.context_digits.generate import generate


@pytest.mark.parametrize(("page", "short"), [(README, True), (PAGE, False)])
def test_the_tables_are_what_the_benchmarks_wrote(page: Path, short: bool) -> None:
    assert BEGIN + table(short=short) + END in page.read_text(), "run `python -m benchmarks.table`"


def test_linked_files_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text())
    local = [link for link in links if not link.startswith("http")]
    assert local
    for link in local:
        assert (README.parent / link).exists(), link


@pytest.fixture
def imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the README's paths mean something: small images, real maps."""
    generate(tmp_path / "set", 24, seed=0, split="train")
    (tmp_path / "imagenet").mkdir()
    (tmp_path / "set" / "images").rename(tmp_path / "imagenet" / "train")
    command = ["extract", "imagenet/train", "maps", "--teacher", "test_resnet", "--random-weights", "0"]
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, [*command, "--num-classes", "10", "--input-size", "64", "--workers", "0"])
    assert done.exit_code == 0, done.output
    return tmp_path


def test_the_five_lines_train(imagenet: Path) -> None:
    """The README's python block, run as a script of its own away from the repository."""
    block = re.search(r"```python\n(.*?)```", README.read_text(), re.S)
    assert block is not None
    script = block.group(1).replace("num_classes=1000", "num_classes=10").replace("batch_size=1024", "batch_size=8")
    loop = (
        "\nassert images.shape == (8, 3, 224, 224) and targets.shape == (8, 10), (images.shape, targets.shape)"
        "\nassert 0 < float(targets.sum()) <= 16"
    )
    done = subprocess.run([sys.executable, "-c", script + loop], cwd=imagenet, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
