"""Training in processes of its own: killed, and two at once."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recipes.train.checkpoint import LAST
from tests.recipes.test_train import SMALL, Digits, _one_thread, digits, largest_difference, run, weights

__all__ = ["_one_thread", "digits"]  # fixtures

ROOT = Path(__file__).parents[2]


def start(digits: Digits, out: Path, options: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "recipes.train.train", str(digits.images), str(digits.maps), *options.split()]
    return subprocess.Popen(
        [*command, "--model", "small_vit", "--img-size", "32", "--device", "cpu", "--out", str(out)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_a_killed_run_ends_as_an_undisturbed_one(digits: Digits, tmp_path: Path) -> None:
    """SIGKILL anywhere behind the first epoch; begun again, it has the weights of a run that nobody killed."""
    settings = replace(SMALL, epochs=500, warmup_epochs=3, lr=None)
    options = "--epochs 500 --warmup-epochs 3 --batch-size 30 --workers 1"
    killed = start(digits, tmp_path / "killed", options)
    log, deadline = tmp_path / "killed" / "log.jsonl", time.monotonic() + 120
    while not (log.exists() and log.read_text()):
        assert killed.poll() is None, killed.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    epochs = torch.load(tmp_path / "killed" / LAST, weights_only=True)["epoch"] + 1
    assert 1 <= epochs < 400

    class Enough(Exception):  # noqa: N818
        """So many epochs tell it."""

    def train_to(folder: str, most: int) -> None:
        def say(line: str) -> None:
            if line.startswith(f"epoch {most - 1}/"):
                raise Enough

        with pytest.raises(Enough):
            run(digits, tmp_path / folder, settings, say=say)

    train_to("killed", epochs + 1)
    train_to("whole", epochs + 1)
    assert largest_difference(weights(tmp_path / "whole"), weights(tmp_path / "killed")) == 0


def test_two_processes_train_as_one_with_the_batch_in_two_parts(digits: Digits, tmp_path: Path) -> None:
    """Each has its own images, gradients are averaged, figures are of both, and one of them writes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    options = "--epochs 2 --batch-size 20 --lr 1e-4 --drop-path 0 --reprob 0 --ema-decay 0.5 --workers 0 --val "
    options += str(digits.images)
    everywhere = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    two = [start(digits, tmp_path / "two", options, RANK=rank, LOCAL_RANK=rank, **everywhere) for rank in "01"]
    told = [process.communicate(timeout=120) for process in two]
    assert [process.returncode for process in two] == [0, 0], told
    assert [bool(out) for out, _ in told] == [True, False]
    assert "20 images per update in 2 processes" in told[0][0]
    settings = replace(SMALL, batch_size=20, lr=1e-4, drop_path=0.0, reprob=0.0, ema_decay=0.5, accumulate=2)
    alone = run(digits, tmp_path / "one", settings, val=digits.images)
    rows = [json.loads(line) for line in (tmp_path / "two" / "log.jsonl").read_text().splitlines()]
    for one, other in zip(alone, rows, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert other["top1"] * 60 == pytest.approx(round(other["top1"] * 60))  # each image once, in one of them
    assert largest_difference(learned(tmp_path / "one"), learned(tmp_path / "two")) < 2e-5  # a fifth of a step


def learned(out: Path) -> dict[str, torch.Tensor]:
    """Without the statistics of batch normalisation, which one process gathers of both parts and two average."""
    return {name: values for name, values in weights(out).items() if not re.search("running_|num_batches", name)}
