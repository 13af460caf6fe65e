"""What others do while a store is pushed or pulled: nothing of theirs is lost, and nothing mixed is a store."""

import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from store import Cause, MapStore, StoreError, StoreMismatch, TransferError, create_store, pull, push, verify
from store.transfer.remote import FolderRemote, Remote, Sent
from store.transfer.result import silent
from tests.store.conftest import (
    contents,
    dataset_of,
    make_header,
    make_rows,
    part,
    renew_checksum,
    write_shard,
    write_store,
)
from tests.store.transfer.conftest import ROWS, kill_at, push_marker


@pytest.fixture
def there(tmp_path: Path, whole: Path) -> Path:
    """The store, pushed."""
    push(whole, tmp_path / "there")
    return tmp_path / "there"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another store."""
    write_store(tmp_path / "other", make_rows(17, seed=9), 3)
    return tmp_path / "other"


def meanwhile(monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[], object]) -> None:
    """Let somebody else do something just before a file is sent, once."""
    acts, send = iter([act]), FolderRemote.send

    def send_after(remote: FolderRemote, file: Sent) -> None:
        if file.name == name:
            next(acts, lambda: None)()
        send(remote, file)

    monkeypatch.setattr(FolderRemote, "send", send_after)


def test_what_was_pushed_while_the_store_was_verified_stays(
    tmp_path: Path, whole: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, acts = tmp_path / "there", iter([lambda: push(other, tmp_path / "there")])
    monkeypatch.setattr("store.transfer.push.require_sound", lambda _: next(acts, lambda: None)())
    with pytest.raises(StoreMismatch, match="expected this store"):
        push(whole, there)
    assert contents(pull(there, tmp_path / "back").store).items() >= contents(other).items()


def test_what_was_pushed_before_the_marker_is_seen_behind_it(
    tmp_path: Path, whole: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there"
    meanwhile(monkeypatch, "manifest.json", lambda: push(other, there))
    with pytest.raises(StoreMismatch, match="expected this store"):
        push(whole, there)
    assert contents(there).items() >= contents(other).items()


def test_two_pushes_of_different_stores_at_once(
    tmp_path: Path, whole: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there"
    meanwhile(monkeypatch, "shard-00004.h5", lambda: push_marker(there, other))
    with pytest.raises(StoreMismatch, match="expected this store"):
        push(whole, there)
    assert not (there / "store.json").exists()


def test_what_another_push_replaced_is_noticed(
    tmp_path: Path, whole: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, shard = tmp_path / "there", "shard-00001.h5"
    meanwhile(monkeypatch, "store.json", lambda: shutil.copy(other / shard, there / shard))
    with pytest.raises(TransferError, match=f"{shard}: expected the file that was sent, found another or none"):
        push(whole, there)
    with pytest.raises(TransferError, match="a push that is under way"):
        pull(there, tmp_path / "back")


def test_a_later_state_that_was_pushed_at_the_end_is_not_taken_back(
    tmp_path: Path, before: Path, extended: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there"
    meanwhile(monkeypatch, "README.md", lambda: push(extended, there))
    with pytest.raises(StoreMismatch, match="found one with 1 extensions, and here are 0; pull it first"):
        push(before, there)
    assert contents(pull(there, tmp_path / "back").store).items() >= contents(extended).items()


def replace_shard(store: Path, whole: Path, filling: bytes) -> None:
    """By another one that is whole, as after `verify --retry-unreadable`."""
    new = store / "new"
    new.write_bytes((whole / "shard-00001.h5").read_bytes() + 16 * filling)
    renew_checksum(new)
    new.rename(store / "shard-00001.h5")


def test_a_shard_that_was_replaced_here_is_not_published_under_the_old_digest(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = shutil.copytree(whole, tmp_path / "here"), tmp_path / "there"
    replace_shard(here, whole, b"a")
    meanwhile(monkeypatch, "shard-00001.h5", lambda: replace_shard(here, whole, b"b"))
    with pytest.raises(TransferError, match=r"here/shard-00001.h5: expected the file that was there when the push beg"):
        push(here, there)
    with pytest.raises(TransferError, match="a push that is under way"):
        pull(there, tmp_path / "back")
    push(here, there)
    assert contents(pull(there, tmp_path / "back").store).items() >= contents(here).items()


def extend_otherwise(target: Path) -> None:
    """With five rows of the eight."""
    rows = part(ROWS, 0, 14)
    header = make_header(rows, 3, earlier=((9, dataset_of(part(ROWS, 0, 9))["digest"]),))
    create_store(target, header, rows.key[:9])
    for shard in (3, 4):
        write_shard(target, header, shard, rows)


def test_a_copy_that_is_extended_while_it_is_pulled_stays(
    tmp_path: Path, before: Path, extended: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, target = tmp_path / "there", shutil.copytree(before, tmp_path / "maps")
    push(extended, there)
    fetch, found = Remote.fetch, {}

    def extend_and_fetch(remote: Remote, name: str, file: Path) -> None:
        if name == "store-1.json":
            extend_otherwise(target)
            found.update(contents(target))
        fetch(remote, name, file)

    monkeypatch.setattr(Remote, "fetch", extend_and_fetch)
    with pytest.raises(StoreError, match="expected what was there when the pull began, found that it was changed"):
        pull(there, target)
    assert found.keys() >= {"store-1.json", "shard-00004.h5"}
    assert contents(target) == found
    with pytest.raises(StoreMismatch, match="or no store, found another store"):
        pull(there, target)


def test_one_of_several_processes_pulls(tmp_path: Path, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, waiting, fetch = tmp_path / "log", tmp_path / "waiting", Remote.fetch

    def say(_: str) -> None:
        with open(waiting, "a") as stream:
            stream.write("x")

    def fetch_and_log(remote: Remote, name: str, target: Path) -> None:
        until = time.monotonic() + 30
        while not (waiting.exists() and waiting.stat().st_size == 3) and time.monotonic() < until:
            time.sleep(0.01)  # until all others have come
        with open(log, "a") as stream:
            stream.write(f"{name}\n")
        fetch(remote, name, target)

    monkeypatch.setattr(Remote, "fetch", fetch_and_log)
    pull_at_once(there, tmp_path / "maps", say)
    names = json.loads((there / "manifest.json").read_text())["files"]
    assert sorted(log.read_text().split()) == sorted(names)


def pull_at_once(there: Path, target: Path, say: Callable[[str], object] = silent) -> None:
    """By four processes, each of which can read the store then."""
    children = []
    for _ in range(4):
        child = os.fork()
        if not child:
            status = 1
            try:
                status = len(MapStore(pull(there, target, say=say).store)) != 17
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0, 0]


def test_who_dies_with_the_lock_blocks_nobody(tmp_path: Path, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(remote: Remote, name: str, target: Path) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(Remote, "fetch", die)
        assert kill_at(None, lambda: pull(there, tmp_path / "maps")) is None
    assert (tmp_path / ".maps.pull.lock").exists()
    said: list[str] = []
    assert pull(there, tmp_path / "maps", say=said.append).moved == 7
    assert said == []


def test_without_locks_the_same_work_is_done_twice_and_harms_nothing(
    tmp_path: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(handle: int, operation: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    pull_at_once(there, tmp_path / "maps")
    assert not [problem for problem in verify(tmp_path / "maps").problems if problem.cause is not Cause.LEFTOVER]
