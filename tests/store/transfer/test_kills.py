"""SIGKILL at random moments: what has arrived stays, and nothing unfinished is ever readable as a store."""

import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from store import MapStore, StoreError, TransferError, pull, push, read_header, verify
from tests.store.conftest import contents
from tests.store.transfer.conftest import kill_after

KILLS = 100
pytestmark = pytest.mark.kills


def random_moments(call: Callable[[], object], rng: random.Random) -> Iterator[float]:
    """Within the time that the call takes, and well after, for a process of its own takes its time to begin."""
    started = time.monotonic()
    call()
    usual = time.monotonic() - started
    return (rng.uniform(0, usual) * 2 ** rng.uniform(0, 3) for _ in range(KILLS))


def finished(folder: Path, whole: dict[str, bytes]) -> dict[str, int]:
    """The files that have arrived, each with the number of its inode, which another copy would not have."""
    if not folder.is_dir():
        return {}
    return {
        file.name: file.stat().st_ino
        for file in folder.iterdir()
        if not file.is_symlink() and file.read_bytes() == whole.get(file.name)
    }


def is_whole_store(folder: Path, states: set[int]) -> bool:
    """Whether a store can be read there; then it is sound, and one of the states, each a number of rows."""
    try:
        store = MapStore(folder)
    except StoreError:
        return False
    assert len(store) in states
    store.read(range(len(store)))
    return True


def test_a_push_that_is_killed_again_and_again(tmp_path: Path, whole: Path) -> None:
    rng, files = random.Random(1), contents(whole)
    partly = complete = 0
    number, remote = 0, tmp_path / "remote-0"
    for moment in random_moments(lambda: push(whole, tmp_path / "timed"), rng):
        there = finished(remote, files)
        kill_after(moment, partial(push, whole, remote))
        now = finished(remote, files)
        assert there.items() <= now.items(), "sent again, or lost"
        is_whole_store(remote, {17})
        try:
            pulled = pull(remote, tmp_path / f"pulled-{complete}")
        except TransferError:
            partly += bool(now)
            continue
        assert verify(pulled.store).ok
        assert contents(pulled.store).items() >= files.items()
        complete += 1
        number += 1
        remote = tmp_path / f"remote-{number}"
    assert partly >= 1
    assert complete >= 1
    there = finished(remote, files)
    assert push(whole, remote).moved == len(files) - len(there)
    assert there.items() <= finished(remote, files).items()


def test_a_pull_that_is_killed_again_and_again(tmp_path: Path, whole: Path) -> None:
    rng, files = random.Random(2), contents(whole)
    remote = tmp_path / "remote"
    push(whole, remote)
    partly = complete = 0
    target = tmp_path / "maps-0"
    for moment in random_moments(lambda: pull(remote, tmp_path / "timed"), rng):
        staging = target.with_name(f"{target.name}.pull")
        there = finished(staging, files)
        kill_after(moment, partial(pull, remote, target))
        if target.exists():
            assert is_whole_store(target, {17})
            assert verify(target).ok
            assert there.items() <= finished(target, files).items(), "sent again, or lost"
            complete += 1
            target = tmp_path / f"maps-{complete}"
        else:
            now = finished(staging, files)
            assert there.items() <= now.items(), "sent again, or lost"
            partly += bool(now)
    assert partly >= 1
    assert complete >= 1
    there = finished(target.with_name(f"{target.name}.pull"), files)
    assert pull(remote, target).moved == len(files) - len(there)


def test_a_pull_of_an_extension_that_is_killed(tmp_path: Path, before: Path, extended: Path) -> None:
    """Whoever opens the copy meanwhile reads the state before or after, whole."""
    rng = random.Random(3)
    old, new = tmp_path / "old", tmp_path / "new"
    push(before, old)
    push(extended, new)
    pull(old, tmp_path / "timed")
    number, states = 0, set()
    pull(old, tmp_path / "maps-0")
    for moment in random_moments(lambda: pull(new, tmp_path / "timed"), rng):
        target = tmp_path / f"maps-{number}"
        kill_after(moment, partial(pull, new, target))
        assert is_whole_store(target, {9, 17})
        rows = read_header(target).rows
        states.add((rows, target.with_name(f"{target.name}.pull").exists()))
        if rows == 17:
            pull(new, target)
            assert verify(target).ok
            assert not target.with_name(f"{target.name}.pull").exists()
            number += 1
            pull(old, tmp_path / f"maps-{number}")
    assert {(9, False), (9, True), (17, False)} <= states


def test_a_push_of_an_extension_that_is_killed(tmp_path: Path, before: Path, extended: Path) -> None:
    """Until it is complete the earlier state can be pulled."""
    rng, seen = random.Random(4), set()
    number, remote = 0, tmp_path / "remote-0"
    push(before, tmp_path / "timed")
    push(before, remote)
    for moment in random_moments(lambda: push(extended, tmp_path / "timed"), rng):
        kill_after(moment, partial(push, extended, remote))
        assert is_whole_store(remote, {9, 17})
        store = pull(remote, tmp_path / f"copy-{number}").store
        assert is_whole_store(store, {9, 17})
        seen.add((read_header(store).rows, len(list(remote.glob("shard-*.h5"))) > 3))
        if read_header(store).rows == 17:
            number += 1
            remote = tmp_path / f"remote-{number}"
            push(before, remote)
    assert seen == {(9, False), (9, True), (17, True)}
