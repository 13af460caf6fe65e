"""Pushing: what travels, in which order it becomes visible, and what is refused."""

import shutil
from pathlib import Path

import pytest

from store import MapStore, ShardError, StoreError, StoreMismatch, Transfer, TransferError, pull, push, verify
from store.transfer.remote import FolderRemote, Sent
from tests.store.conftest import contents, flip, make_rows, renew_checksum, write_store
from tests.store.transfer.conftest import ROWS, push_marker


class CableError(RuntimeError):
    """Somebody tripped over it."""


def cut_after(monkeypatch: pytest.MonkeyPatch, files: int) -> None:
    """Let sending fail after so many files."""
    sent, send = iter(range(files)), FolderRemote.send

    def send_some(remote: FolderRemote, file: Sent) -> None:
        if next(sent, None) is None:
            raise CableError
        send(remote, file)

    monkeypatch.setattr(FolderRemote, "send", send_some)


def moved(transfer: Transfer) -> int:
    return transfer.moved


def test_a_pushed_store_is_the_same_store(tmp_path: Path, extended: Path) -> None:
    told: list[tuple[int, int]] = []
    done = push(extended, tmp_path / "there", on_progress=lambda *bytes_: told.append(bytes_))
    files = contents(extended)
    assert contents(tmp_path / "there").items() >= files.items()
    assert contents(tmp_path / "there").keys() - files.keys() == {"README.md", "manifest.json"}
    total = sum(map(len, files.values()))
    assert (done.files, done.moved, done.nbytes, done.moved_nbytes) == (len(files), len(files), total, total)
    assert told[0] == (0, total)
    assert told[-1] == (total, total)
    assert verify(tmp_path / "there").ok  # the two files beside it are no foreign ones
    assert done.content_digest == MapStore(extended).header.content_digest


def test_only_what_is_missing_or_differs_travels(tmp_path: Path, whole: Path) -> None:
    there = tmp_path / "there"
    push(whole, there)
    assert moved(push(whole, f"file://{there}/")) == 0
    (there / "shard-00001.h5").unlink()
    assert moved(push(whole, there)) == 1
    (there / "manifest.json").unlink()  # by length and checksum, then
    (there / "shard-00000.h5").write_bytes((there / "shard-00000.h5").read_bytes()[:-1])
    flip(there / "shard-00002.h5", -1)
    flip(there / "store.json", -20)
    with pytest.raises(StoreError, match=r"there/store.json: .*digest|there/store.json: expected JSON"):
        push(whole, there)
    (there / "store.json").unlink()
    push_marker(there, whole)
    assert moved(push(whole, there)) == 3
    assert contents(there).items() >= contents(whole).items()


def test_an_extension_sends_what_is_new(tmp_path: Path, before: Path, extended: Path) -> None:
    there = tmp_path / "there"
    push(before, there)
    new = contents(extended).keys() - contents(before).keys()
    assert moved(push(extended, there)) == len(new)
    assert pull(there, tmp_path / "back").files == len(contents(extended))
    with pytest.raises(StoreMismatch, match=r"found one with 1 extensions, and here are 0; pull it first"):
        push(before, there)


@pytest.mark.parametrize("files", range(10))  # a marker, six shards, the header, the card, the manifest
def test_a_push_that_stops_anywhere_is_no_store(
    tmp_path: Path, whole: Path, files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there"
    with monkeypatch.context() as patch:
        cut_after(patch, files)
        with pytest.raises(CableError):
            push(whole, there)
    if not (there / "store.json").exists():
        with pytest.raises(StoreError):
            MapStore(there)
    else:  # shards are in place before it
        assert len(MapStore(there)) == 17
    with pytest.raises(TransferError, match="found none; check the URL" if not files else "a push that is under way"):
        pull(there, tmp_path / "back")
    arrived = sum(name in contents(whole) for name in contents(there)) if there.exists() else 0
    assert moved(push(whole, there)) == 7 - arrived
    assert contents(pull(there, tmp_path / "back").store).items() >= contents(whole).items()


def test_while_a_shard_is_replaced_there_is_no_store_to_pull(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `verify --retry-unreadable`: another shard of the same store."""
    there, again = tmp_path / "there", tmp_path / "again"
    push(whole, there)
    shutil.copytree(whole, again)
    shard = again / "shard-00001.h5"
    shard.write_bytes(shard.read_bytes()[:-16] + bytes(16))
    renew_checksum(shard)
    with monkeypatch.context() as patch:
        cut_after(patch, 2)
        with pytest.raises(CableError):
            push(again, there)
    with pytest.raises(TransferError, match="a push that is under way or was stopped"):
        pull(there, tmp_path / "back")
    push(again, there)
    assert contents(pull(there, tmp_path / "back").store).items() >= contents(again).items()


def test_an_incomplete_or_damaged_store_is_not_pushed(tmp_path: Path, whole: Path) -> None:
    maps = shutil.copytree(whole, tmp_path / "maps")
    flip(maps / "shard-00003.h5")
    with pytest.raises(StoreError, match=r"expected a sound store, found . problems: shard-00003.h5"):
        push(maps, tmp_path / "there")
    (maps / "shard-00003.h5").unlink()
    with pytest.raises(ShardError, match=r"expected 6 shards, found 5; 1 missing: 3; run `tokenmix extract` again"):
        push(maps, tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_what_is_no_part_of_a_store_stays_here(tmp_path: Path, whole: Path) -> None:
    maps = shutil.copytree(whole, tmp_path / "maps")
    for name in ("passwords.txt", "README.md", "manifest.json"):
        (maps / name).write_text("secret")
    push(maps, tmp_path / "there")
    assert contents(tmp_path / "there").keys() == contents(whole).keys() | {"README.md", "manifest.json"}
    assert not [name for name, text in contents(tmp_path / "there").items() if b"secret" in text]


def test_another_store_is_not_overwritten(tmp_path: Path, whole: Path) -> None:
    there = tmp_path / "there"
    write_store(tmp_path / "other", make_rows(17, seed=9), 3)
    push(tmp_path / "other", there)
    for name in ("store.json", "manifest.json"):  # either says whose it is
        found = contents(there)
        with pytest.raises(StoreMismatch, match=r"expected this store, of content digest .*, or none, found content"):
            push(whole, there)
        assert contents(there) == found
        (there / name).unlink()
    with pytest.raises(StoreMismatch, match=r"or none, found shard-00000.h5 without a manifest; give another URL"):
        push(whole, there)


def test_a_store_is_not_pushed_into_itself(tmp_path: Path) -> None:
    write_store(tmp_path / "maps", ROWS, 9)
    for place in ("maps", "maps/inside"):
        with pytest.raises(StoreError, match="expected another folder, found the store itself"):
            push(tmp_path / "maps", tmp_path / place)
    (tmp_path / "link").symlink_to(tmp_path / "maps")
    with pytest.raises(StoreError, match="expected another folder, found the store itself"):
        push(tmp_path / "maps", tmp_path / "link")


def test_links_to_another_store_are_not_replaced(tmp_path: Path, whole: Path) -> None:
    other, there = tmp_path / "other", tmp_path / "there"
    write_store(other, make_rows(17, seed=9), 3)
    there.mkdir()
    for file in other.iterdir():
        (there / file.name).symlink_to(file)
    with pytest.raises(StoreMismatch, match="or none, found content digest"):
        push(whole, there)
    shutil.rmtree(other)
    (there / "store.json").unlink()
    with pytest.raises(StoreMismatch, match=r"found shard-00000.h5 without a manifest"):  # links that lead nowhere
        push(whole, there)
    assert all(file.is_symlink() for file in there.iterdir())


def test_colons_in_a_path_are_no_chain_of_protocols(tmp_path: Path, whole: Path) -> None:
    push(whole, tmp_path / "a::b2")
    assert (tmp_path / "a::b2" / "store.json").exists()
    assert pull(f"file://{tmp_path}/a::b2", tmp_path / "back").moved == 7


def test_only_a_folder_is_pushed(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match=r"memory://x/maps: expected a folder, found a URL; `push` copies a folder to"):
        push("memory://x/maps", tmp_path / "there")
    assert push(f"file://{whole}", tmp_path / "there").moved == 7
