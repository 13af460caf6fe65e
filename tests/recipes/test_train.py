"""The training recipe as a user runs it: copied into a folder of one's own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recipes.context_digits.generate import generate
from recipes.train import train
from tests.recipes.test_fidelity import ROWS, write_perfect_maps


@pytest.mark.parametrize("supervision", ["tokenmix", "tokenlabeling"])
def test_it_trains_and_leaves_weights(tmp_path: Path, supervision: str) -> None:
    generate(tmp_path / "data", ROWS, seed=0, split="test")
    write_perfect_maps(tmp_path / "maps", tmp_path / "data" / "images", topk=supervision == "tokenlabeling")
    script = shutil.copy(train.__file__, tmp_path)
    options = "--model test_vit --num-classes 10 --epochs 2 --mixup-off-epoch 1 --batch-size 20 --workers 1"
    options += f" --supervision {supervision}"
    done = subprocess.run(
        [sys.executable, script, "data/images", "maps", *options.split()],
        cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    losses = [float(line.rpartition(" ")[2]) for line in done.stdout.splitlines() if line.startswith("epoch ")]
    assert len(losses) == 2
    most = 5 if supervision == "tokenmix" else 6  # the tokens have a loss of their own
    assert all(0 < loss < most for loss in losses)
    assert torch.load(tmp_path / "model.pt", weights_only=True)["head.weight"].shape == (10, 64)
