"""A real extraction is killed at random instants, resumed, and must end with the bytes of an undisturbed one.

The short form kills 6 stores, `-m slow` 200. A failure names the seed, which draws everything but the machine's
own timing.
"""

import multiprocessing
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from store import present_shards, read_header
from tests.extract.conftest import ramp
from tests.faults.job import extract
from tests.faults.writing import contents, harmful

SHARDS = 6
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.faults.job"])


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for row in range(2 * SHARDS):
        (root / f"{row % 3}").mkdir(exist_ok=True)
        ramp(40 + row, 50).save(root / f"{row % 3}" / f"{row}.jpg")
    return root


def start(images: Path, store: Path, workers: int) -> Any:
    """An extraction that has just begun."""
    begun = FORKS.Event()
    child = FORKS.Process(target=extract, args=(images, store, workers, begun))
    child.start()
    assert begun.wait(60)
    return child


def finish(images: Path, store: Path, workers: int) -> float:
    """Run to the end; seconds."""
    began = time.monotonic()
    child = start(images, store, workers)
    child.join()
    assert child.exitcode == 0
    return time.monotonic() - began


def kill_and_resume(seed: int, images: Path, store: Path, usual_s: float) -> set[int]:
    """Up to three kills, each at an instant of the usual run; how many shards each left."""
    rng = random.Random(seed)
    left = set()
    for _ in range(rng.choice([1, 1, 2, 3])):
        child = start(images, store, workers=rng.choice([0, 0, 0, 2]))
        time.sleep(rng.uniform(0, usual_s))
        child.kill()
        child.join()
        assert harmful(store) == [], f"seed {seed}"
        left.add(len(present_shards(store, read_header(store))) if (store / "store.json").exists() else 0)
    finish(images, store, workers=rng.choice([0, 0, 0, 2]))
    return left


@pytest.mark.parametrize("kills", [6, pytest.param(200, marks=pytest.mark.slow)])
def test_killed_at_random_instants(kills: int, images: Path, tmp_path: Path) -> None:
    finish(images, tmp_path / "undisturbed", workers=0)
    usual_s = finish(images, tmp_path / "timed", workers=0)
    expected = contents(tmp_path / "undisturbed")
    assert len(expected) == SHARDS + 1
    first = random.randrange(2**32)
    print(f"seeds {first} to {first + kills - 1}, {usual_s:.2f} s undisturbed")
    left: set[int] = set()
    for seed in range(first, first + kills):
        left |= kill_and_resume(seed, images, tmp_path / "maps", usual_s)
        assert contents(tmp_path / "maps") == expected, f"seed {seed}"
        shutil.rmtree(tmp_path / "maps")
    print(f"shards that kills left: {sorted(left)}")
    assert left - {0, SHARDS}, "no kill fell into the run"
