"""The smallest training loop as a user runs it: copied into a folder of one's own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from recipes.train import minimal
from tests.recipes.test_train import Digits, _one_thread, digits

__all__ = ["_one_thread", "digits"]  # fixtures

OPTIONS = "--num-classes 10 --epochs 2 --mixup-off-epoch 1 --batch-size 20"


def check(output: str, weights: Path, most: float) -> None:
    losses = [float(line.rpartition(" ")[2]) for line in output.splitlines() if line.startswith("epoch ")]
    assert len(losses) == 2
    assert all(0 < loss < most for loss in losses)
    assert any(value.shape[0] == 10 for value in torch.load(weights, weights_only=True).values() if value.ndim)


def test_a_copy_of_it_trains_and_leaves_weights(digits: Digits, tmp_path: Path) -> None:
    script = shutil.copy(minimal.__file__, tmp_path)
    done = subprocess.run(
        [sys.executable, script, str(digits.images), str(digits.maps), "--model", "test_vit", *OPTIONS.split()],
        cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    check(done.stdout, tmp_path / "model.pt", 5)


@pytest.mark.parametrize(("model", "supervision"), [("test_vit", "tokenlabeling"), ("test_resnet", "tokenmix")])
def test_it_trains_with_token_labels_and_networks_without_tokens(
    digits: Digits, tmp_path: Path, model: str, supervision: str
) -> None:
    maps = digits.topk if supervision == "tokenlabeling" else digits.maps
    options = f"{digits.images} {maps} --model {model} {OPTIONS} --supervision {supervision} --workers 0"
    done = CliRunner().invoke(minimal.main, [*options.split(), "--out", str(tmp_path / "m.pt")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    check(done.output, tmp_path / "m.pt", 6)  # the tokens have a loss of their own
