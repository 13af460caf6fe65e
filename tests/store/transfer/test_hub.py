"""The Hugging Face hub, here a server on this machine: one commit per push, and pulls of one commit."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec.config
import pytest

from store import MapStore, StoreError, StoreMismatch, TransferError, cache_folder, pull, push
from store.transfer.hub import HubRemote
from store.transfer.places import open_remote
from tests.store.conftest import contents, make_rows, write_store
from tests.store.transfer.fake_hub import FakeHub, fake_hub

hf_file_system = pytest.importorskip("huggingface_hub.hf_file_system")
hf_bars = pytest.importorskip("huggingface_hub.utils.tqdm")
# of the client's own library, about how the client calls it
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
URL = "hf://datasets/me/maps"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """An empty one. The storage of large files by chunks (Xet) has no server here, so the older way is taken."""
    import huggingface_hub.utils._runtime as runtime

    with fake_hub() as hub:
        monkeypatch.setenv("TOKENMIX_CACHE", str(tmp_path / "cache"))
        monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": hub.url, "token": "hf_secret"})
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        assert not runtime.is_xet_available()
        hf_file_system.HfFileSystem.clear_instance_cache()
        yield hub
        hf_file_system.HfFileSystem.clear_instance_cache()


def test_a_push_is_one_commit(hub: FakeHub, whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[int, int]] = []
    done = push(whole, URL, on_progress=lambda *bytes_: told.append(bytes_))
    assert (done.moved, done.files) == (7, 7)
    assert told[-1] == (done.nbytes, done.nbytes)
    assert (hub.repo, hub.private) == ("me/maps", True)
    assert len(hub.commits) == 2  # the first is the repository's
    assert hub.commits[-1].items() >= contents(whole).items()
    assert hub.commits[-1].keys() - contents(whole).keys() == {".gitattributes", "README.md", "manifest.json"}
    assert push(whole, URL).moved == 0
    assert len(hub.commits) == 2
    assert capfd.readouterr() == ("", "")
    store = MapStore(URL)
    assert (store.read(range(17)) == MapStore(whole).read(range(17))).all()
    assert contents(cache_folder(URL)).items() >= contents(whole).items()


def test_an_extension_is_the_next_commit(hub: FakeHub, before: Path, extended: Path, tmp_path: Path) -> None:
    push(before, URL)
    reader = open_remote(URL)
    hub.calls.clear()
    new = contents(extended).keys() - contents(before).keys()
    assert push(extended, URL).moved == len(new)
    assert sum(call.startswith("PUT /upload/") for call in hub.calls) == 3
    assert reader.sizes().keys() & new == set()  # a pull that began before goes on with what was there
    assert len(MapStore(f"{URL}@{hub.oid(1)}")) == 9
    assert len(MapStore(pull(URL, tmp_path / "maps").store)) == 17


def test_a_push_that_stopped_leaves_nothing_visible_and_goes_on(hub: FakeHub, whole: Path, tmp_path: Path) -> None:
    hub.fail_uploads_after = 4
    with pytest.raises(TransferError, match=r"hf://datasets/me/maps: expected an answer, found"):
        push(whole, URL)
    assert len(hub.commits) == 1
    with pytest.raises(TransferError, match="not a pushed store"):
        pull(URL, tmp_path / "maps")
    hub.fail_uploads_after, there = None, set(hub.large)
    hub.calls.clear()
    push(whole, URL)
    uploads = {call.rpartition("/")[2] for call in hub.calls if call.startswith("PUT /upload/")}
    assert len(uploads) == 6 - len(there)
    assert not uploads & there
    assert len(MapStore(URL)) == 17


def test_a_folder_of_a_repository(hub: FakeHub, whole: Path, tmp_path: Path) -> None:
    push(whole, f"{URL}/train/maps")
    assert {"train/maps/store.json", "train/maps/manifest.json", "train/maps/README.md"} <= hub.commits[-1].keys()
    assert push(whole, f"{URL}/train/maps").moved == 0
    assert len(MapStore(f"{URL}/train/maps")) == 17


def test_what_somebody_else_pushed_meanwhile_stays(hub: FakeHub, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push(whole, URL)
    hub.commits[-1].pop("shard-00000.h5")
    remote = open_remote(URL, to_write=True)
    monkeypatch.setattr("store.transfer.push.open_remote", lambda *_, **__: remote)
    hub.commits.append(hub.commits[-1])
    with pytest.raises(TransferError, match="expected that nobody changed the place meanwhile, found .*; run again"):
        push(whole, URL)


def test_a_repository_that_somebody_else_makes_meanwhile_is_theirs(
    hub: FakeHub, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_store(tmp_path / "other", make_rows(17, seed=9), 3)
    acts = iter([lambda: push(tmp_path / "other", URL)])
    monkeypatch.setattr("store.transfer.push.require_sound", lambda _: next(acts, lambda: None)())
    with pytest.raises(
        TransferError, match="expected that nobody changed the place meanwhile, found .*409.*; run again"
    ):
        push(whole, URL)
    assert hub.commits[-1].items() >= contents(tmp_path / "other").items()


def test_files_that_a_gitignore_leaves_out_are_missed(hub: FakeHub, whole: Path, tmp_path: Path) -> None:
    hub.ignored = ".h5"
    with pytest.raises(
        TransferError, match=r"shard-00000.h5: expected \d+ bytes .*, found no such .*\.gitignore names"
    ):
        push(whole, URL)
    with pytest.raises(TransferError, match="shard-00000.h5: expected .* bytes, found no such file"):
        pull(URL, tmp_path / "maps")
    hub.ignored = ""
    assert push(whole, URL).moved == 6
    assert pull(URL, tmp_path / "maps").moved == 7


def test_a_shard_that_was_replaced_meanwhile_is_not_committed(hub: FakeHub, whole: Path, tmp_path: Path) -> None:
    here = shutil.copytree(whole, tmp_path / "here")
    with pytest.raises(TransferError, match=r"here/shard-00003.h5: expected the file that was there when the push beg"):
        push(here, URL, on_progress=lambda *_: (here / "shard-00003.h5").touch())
    assert len(hub.commits) == 1


def test_the_librarys_bars_are_off_while_files_come(
    hub: FakeHub, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(whole, URL)
    fetch, off = HubRemote.fetch, []

    def look_and_fetch(remote: HubRemote, name: str, target: Path) -> None:
        off.append(hf_bars.are_progress_bars_disabled())
        fetch(remote, name, target)

    monkeypatch.setattr(HubRemote, "fetch", look_and_fetch)
    pull(URL, tmp_path / "maps")
    assert off == [True] * 7
    assert not hf_bars.are_progress_bars_disabled()


@pytest.mark.parametrize("folder", ["", "/train/maps"])
def test_a_pull_request_is_a_revision(hub: FakeHub, whole: Path, tmp_path: Path, folder: str) -> None:
    push(whole, URL)
    hub.calls.clear()
    assert push(whole, f"{URL}@refs/pr/1{folder}").moved == (7 if folder else 0)
    assert hub.calls[0].endswith("/revision/refs/pr/1")
    assert pull(f"{URL}@refs/pr/1{folder}", tmp_path / "maps").moved == 7


def test_what_is_refused(hub: FakeHub, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(TransferError, match=r"expected an existing place, found RepositoryNotFoundError"):
        pull(URL, tmp_path / "maps")
    for url in ("hf://me/maps", "hf://datasets/me", "hf://spaces/me/maps"):
        with pytest.raises(StoreError, match=r"expected hf://datasets/USER/NAME"):
            push(whole, url)
    write_store(tmp_path / "other", make_rows(17, seed=9), 3)
    push(tmp_path / "other", URL)
    with pytest.raises(StoreMismatch, match="expected this store"):
        push(whole, URL)
    hub.forbidden = True
    (shard := hub.commits[-1]).pop("shard-00000.h5")
    with pytest.raises(TransferError, match=r"expected the permission, found .*; log in \(`hf auth login`"):
        push(tmp_path / "other", URL)
    assert shard is hub.commits[-1]
