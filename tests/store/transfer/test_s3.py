"""S3, spoken by a server process of its own (moto), through s3fs; `make test-s3` installs both."""

import random
from pathlib import Path

import fsspec
import pytest

pytest.importorskip("s3fs")

from store import MapStore, StoreError, StoreMismatch, TransferError, cache_folder, pull, push, verify
from tests.store.conftest import contents, make_rows, write_store
from tests.store.transfer.conftest import kill_alone

pytest_plugins = ["tests.store.transfer.s3_server"]
pytestmark = [pytest.mark.s3, pytest.mark.filterwarnings("default::DeprecationWarning")]
KILLS = 20
ROOT = Path(__file__).parents[3]


def test_there_and_back(bucket: str, whole: Path, tmp_path: Path) -> None:
    assert push(whole, f"{bucket}/deep/store").moved == 7
    assert push(whole, f"{bucket}/deep/store").moved == 0
    assert contents(pull(f"{bucket}/deep/store", tmp_path / "maps").store).items() >= contents(whole).items()
    assert len(MapStore(f"{bucket}/deep/store/")) == 17
    assert verify(cache_folder(f"{bucket}/deep/store")).ok
    assert push(whole, bucket).moved == 7  # a bucket as a whole, too
    assert len(MapStore(bucket)) == 17


def test_only_what_differs_travels(bucket: str, before: Path, extended: Path, tmp_path: Path) -> None:
    url, fs = f"{bucket}/store", fsspec.filesystem("s3", skip_instance_cache=True)
    push(before, url)
    pull(url, tmp_path / "maps")
    new = contents(extended).keys() - contents(before).keys()
    assert push(extended, url).moved == len(new)
    assert pull(url, tmp_path / "maps").moved == len(new)
    assert len(MapStore(tmp_path / "maps")) == 17
    fs.rm("maps/store/manifest.json")  # now by length and checksum
    fs.rm("maps/store/shard-00001.h5")
    fs.pipe_file("maps/store/shard-00002.h5", (extended / "shard-00002.h5").read_bytes()[:-1] + b"x")
    assert push(extended, url).moved == 2
    with pytest.raises(StoreMismatch, match="pull it first"):
        push(before, url)


def test_what_is_refused(bucket: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TransferError, match=r"s3://nowhere/x/.*: expected an existing place, found FileNotFoundError"):
        push(whole, "s3://nowhere/x")
    with pytest.raises(TransferError, match="not a pushed store"):
        pull(f"{bucket}/nothing", tmp_path / "maps")
    write_store(tmp_path / "other", make_rows(17, seed=9), 3)
    push(tmp_path / "other", bucket)
    with pytest.raises(StoreMismatch, match="expected this store"):
        push(whole, bucket)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(TransferError, match=r"expected an answer, found .*Connect.*; check the network and run again"):
        pull(bucket, tmp_path / "maps")
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.mark.parametrize("what", ["push", "pull"])
def test_kills(bucket: str, whole: Path, tmp_path: Path, what: str) -> None:
    """A killed transfer goes on, and nothing unfinished is a store."""
    rng, files = random.Random(5), contents(whole)
    fs = fsspec.filesystem("s3", skip_instance_cache=True)
    states: set[tuple[str, bool]] = set()
    number, latest_s = 0, 0.5
    if what == "pull":
        push(whole, bucket)
    for kill in range(5 * KILLS):  # more where no kill fell into the transfer, or none behind it
        if kill >= KILLS and {("partly", True), ("whole", True)} <= states:
            break
        url = f"{bucket}/{number}" if what == "push" else bucket
        target = tmp_path / f"maps-{number}"
        path = whole if what == "push" else target
        call = ("push", path, url) if what == "push" else ("pull", url, path)
        latest_s *= 1.1 if kill_alone(rng.uniform(0, latest_s), *map(str, call)) else 0.9
        fs.invalidate_cache()
        if what == "push":
            there = {Path(name).name for name in fs.ls(url, detail=False)} if fs.exists(url) else set()
            try:
                pull(url, target)
            except TransferError:
                states.add(("partly", bool(there & files.keys())))
                continue
        elif not target.exists():
            parts = tmp_path / f"maps-{number}.pull"
            states.add(("partly", parts.exists()))
            if not (parts / "store.json").exists():  # it comes last, when all others are there and compared
                with pytest.raises(StoreError):
                    MapStore(parts)
            continue
        assert verify(target).ok
        assert contents(target).items() >= files.items()
        states.add(("whole", True))
        number += 1
    assert {("partly", True), ("whole", True)} <= states
