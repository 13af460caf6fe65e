"""What tests of the commands share: a small job on real photographs, and how a command is called."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli import main
from recipes.context_digits.generate import generate
from tests.extract.conftest import make_folder

__all__ = ["make_folder"]

TEACHER = [
    "--teacher", "test_resnet", "--random-weights", "0", "--input-size", "64", "--workers", "0", "--device", "cpu",
]  # fmt: skip
QUICK = [*TEACHER, "--num-classes", "10", "--shard-size", "8"]


def tokenmix(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits")
    generate(root, 20, seed=1, split="test")
    return root / "images"


@pytest.fixture(scope="module")
def maps(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store") / "maps"
    assert tokenmix("extract", images, store, *QUICK).exit_code == 0
    return store
