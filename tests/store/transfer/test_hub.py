"""The Hugging Face hub, here a server on this machine: one commit per push, and pulls of one commit."""

from collections.abc import Iterator
from pathlib import Path

import fsspec.config
import pytest

from store import MapStore, StoreError, StoreMismatch, TransferError, cache_folder, pull, push
from store.transfer.places import open_remote
from tests.store.conftest import contents, make_rows, write_store
from tests.store.transfer.fake_hub import FakeHub, fake_hub

hf_file_system = pytest.importorskip("huggingface_hub.hf_file_system")
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
