"""SIGKILL at random moments: what has arrived stays, and nothing unfinished is ever readable as a store."""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from store import MapStore, StoreError, TransferError, pull, push, read_header, verify
from tests.store.conftest import contents
from tests.store.transfer.conftest import kill_after, kill_at

KILLS = 100
pytestmark = pytest.mark.kills


class Killer:
    """Kills calls at random moments of a usual run, and every other one after a random time, perhaps amidst a write.

    Which phases the kills reach is up to the moments alone: how long a phase takes depends on the machine.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.usual, self.latest_s = rng, 0, 0.1

    def __call__(self, call: Callable[[], object]) -> None:
        """Once; the call runs in a process of its own. The first is not killed: it tells how many moments there are."""
        if self.usual and self.rng.random() < 0.5:
            killed = kill_after(self.rng.uniform(0, self.latest_s), call)
            self.latest_s *= 1.1 if killed else 0.9
            return
        moments = kill_at(self.rng.randrange(self.usual) if self.usual else None, call)
        self.usual = max(self.usual, moments or 0)


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
    kill, files = Killer(random.Random(1)), contents(whole)
    partly = complete = 0
    number, remote = 0, tmp_path / "remote-0"
    for _ in range(KILLS):
        there = finished(remote, files)
        kill(partial(push, whole, remote))
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
    assert partly >= 10
    assert complete >= 3
    there = finished(remote, files)
    assert push(whole, remote).moved == len(files) - len(there)
    assert there.items() <= finished(remote, files).items()


def test_a_pull_that_is_killed_again_and_again(tmp_path: Path, whole: Path) -> None:
    kill, files = Killer(random.Random(2)), contents(whole)
    remote = tmp_path / "remote"
    push(whole, remote)
    partly = complete = 0
    target = tmp_path / "maps-0"
    for _ in range(KILLS):
        staging = target.with_name(f"{target.name}.pull")
        there = finished(staging, files)
        kill(partial(pull, remote, target))
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
    assert partly >= 10
    assert complete >= 3
    there = finished(target.with_name(f"{target.name}.pull"), files)
    assert pull(remote, target).moved == len(files) - len(there)


def test_a_pull_of_an_extension_that_is_killed(tmp_path: Path, before: Path, extended: Path) -> None:
    """Whoever opens the copy meanwhile reads the state before or after, whole."""
    kill = Killer(random.Random(3))
    old, new = tmp_path / "old", tmp_path / "new"
    push(before, old)
    push(extended, new)
    number, states = 0, set()
    pull(old, tmp_path / "maps-0")
    for _ in range(KILLS):
        target = tmp_path / f"maps-{number}"
        kill(partial(pull, new, target))
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
    kill, seen = Killer(random.Random(4)), set()
    number, remote = 0, tmp_path / "remote-0"
    push(before, remote)
    for _ in range(KILLS):
        kill(partial(push, extended, remote))
        assert is_whole_store(remote, {9, 17})
        store = pull(remote, tmp_path / f"copy-{number}").store
        assert is_whole_store(store, {9, 17})
        seen.add((read_header(store).rows, len(list(remote.glob("shard-*.h5"))) > 3))
        if read_header(store).rows == 17:
            number += 1
            remote = tmp_path / f"remote-{number}"
            push(before, remote)
    assert seen == {(9, False), (9, True), (17, True)}
