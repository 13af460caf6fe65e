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

from store import read_header
from store.folder.files import present_shards
from tests.extract.conftest import ramp
from tests.faults.job import extract
from tests.faults.writing import contents, harmful

SHARDS = 6
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.faults.job"])


@pytest.fixture
def images(tmp_path: Path) -> Path:
    add_images(tmp_path / "images", range(0, 4 * SHARDS, 2))
    return tmp_path / "images"


def add_images(root: Path, numbers: range) -> None:
    for number in numbers:
        (root / f"{number % 3}").mkdir(exist_ok=True, parents=True)
        ramp(40 + number, 50).save(root / f"{number % 3}" / f"{number}.jpg")


def start(images: Path, store: Path, workers: int, *, extend: bool = False) -> Any:
    """An extraction that has just begun."""
    begun = FORKS.Event()
    child = FORKS.Process(target=extract, args=(images, store, workers, begun, extend))
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


def wait(rng: random.Random, child: Any, store: Path, usual_s: float) -> None:
    """Until an instant of the usual run, or until shortly after a shard, for all of them are written within moments."""
    if rng.random() < 0.5:
        time.sleep(rng.uniform(0, usual_s))
        return
    shards = rng.randrange(1, SHARDS)
    while child.is_alive() and len([*store.glob("shard-*.h5")]) < shards:
        time.sleep(0.0005)
    time.sleep(rng.uniform(0, 0.01))


def kill_and_resume(seed: int, images: Path, store: Path, usual_s: float) -> set[int]:
    """Up to three kills, each at an instant of the usual run; how many shards each left."""
    rng = random.Random(seed)
    left = set()
    for _ in range(rng.choice([1, 1, 2, 3])):
        child = start(images, store, workers=rng.choice([0, 0, 0, 2]))
        wait(rng, child, store, usual_s)
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
    # More where all of them fell before the run's first shard or behind its last.
    for seed in range(first, first + 3 * kills):
        if seed >= first + kills and left - {0, SHARDS}:
            break
        left |= kill_and_resume(seed, images, tmp_path / "maps", usual_s)
        assert contents(tmp_path / "maps") == expected, f"seed {seed}"
        shutil.rmtree(tmp_path / "maps")
    print(f"shards that kills left: {sorted(left)}")
    assert left - {0, SHARDS}, "no kill fell into the run"


@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_extensions_killed_and_started_at_once(kills: int, images: Path, tmp_path: Path) -> None:
    """Two workers extend a store at the same time, one is killed, the other goes on, a third comes later."""
    finish(images, tmp_path / "before", workers=0)
    add_images(images, range(1, 2 * SHARDS, 2))
    shutil.copytree(tmp_path / "before", tmp_path / "undisturbed")
    start(images, tmp_path / "undisturbed", 0, extend=True).join()
    expected = contents(tmp_path / "undisturbed")
    assert len(expected) > 1.4 * SHARDS
    for seed in range(kills):
        maps = shutil.copytree(tmp_path / "before", tmp_path / f"maps{seed}")
        children = [start(images, maps, 0, extend=True) for _ in range(2)]
        time.sleep(random.Random(seed).uniform(0, 0.3))
        children[0].kill()
        assert harmful(maps) == [], f"seed {seed}"
        children[1].join()
        assert children[1].exitcode == 0
        finish(images, maps, workers=0)  # without being asked to extend: it is, by now
        assert contents(maps) == expected, f"seed {seed}"


@pytest.mark.parametrize("kills", [4, pytest.param(40, marks=pytest.mark.slow)])
def test_a_kill_leaves_no_decoding_process_behind(kills: int, images: Path, tmp_path: Path) -> None:
    for number in range(kills):
        here, there = FORKS.Pipe(duplex=False)
        begun = FORKS.Event()
        child = FORKS.Process(target=extract, args=(images, tmp_path / str(number), 2, begun, False, there))
        child.start()
        assert begun.wait(60)
        there.close()
        time.sleep(0.3 * number / kills)  # most often while its processes start
        child.kill()
        child.join()
        assert here.poll(20), f"a process of kill {number} lives on"
        with pytest.raises(EOFError):
            here.recv_bytes()
