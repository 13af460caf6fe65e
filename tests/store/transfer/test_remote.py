"""Any place of fsspec, here its memory: the cache, and errors by their types."""

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from store import (
    MapStore,
    ShardError,
    StoreError,
    StoreMismatch,
    TransferError,
    cache_folder,
    local_store,
    pull,
    push,
    verify,
)
from store.folder.urls import path_of, url_of, without_secrets
from tests.store.conftest import contents, make_rows, write_store
from tests.store.transfer.conftest import push_marker

URL = "memory://bucket/maps"


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryFileSystem]:
    """An empty one, and a cache of its own."""
    monkeypatch.setenv("TOKENMIX_CACHE", str(tmp_path / "cache"))
    fs = fsspec.filesystem("memory")
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


def test_a_store_at_a_url_is_pulled_once(whole: Path, memory: MemoryFileSystem) -> None:
    push(whole, URL)
    store = MapStore(URL)
    assert (store.read(range(17)) == MapStore(whole).read(range(17))).all()
    assert Path(str(store)) == cache_folder(URL) == local_store(URL + "/") == local_store(Path(URL))
    memory.rm("/bucket", recursive=True)
    assert len(MapStore(URL)) == 17  # without network


def test_a_cached_store_is_brought_up_to_date_when_asked(before: Path, extended: Path) -> None:
    push(before, URL)
    assert len(MapStore(URL)) == 9
    push(extended, URL)
    assert len(MapStore(URL)) == 9
    pull(URL, cache_folder(URL))
    assert len(MapStore(URL)) == 17


def test_only_what_differs_travels(whole: Path, memory: MemoryFileSystem, tmp_path: Path) -> None:
    assert push(whole, URL).moved == 7
    assert push(whole, URL).moved == 0
    memory.rm("/bucket/maps/manifest.json")
    assert push(whole, URL).moved == 0
    with memory.open("/bucket/maps/shard-00002.h5", "wb") as file:
        file.write(b"torn")
    assert push(whole, URL).moved == 1
    assert contents(pull(URL, tmp_path / "maps").store).items() >= contents(whole).items()


def test_the_end_of_a_file_is_read_by_every_protocol(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sftp, smb and ftp cannot count from it."""
    cat_file = MemoryFileSystem.cat_file

    def cat_some(fs: MemoryFileSystem, path: str, start: int | None = None, end: int | None = None) -> Any:
        assert start is None or start >= 0
        return cat_file(fs, path, start, end)

    push(whole, URL)
    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_some)
    fsspec.filesystem("memory").rm("/bucket/maps/manifest.json")
    assert push(whole, URL).moved == 0


def test_lengths_that_a_place_does_not_say(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push(whole, URL)
    ls = MemoryFileSystem.ls
    monkeypatch.setattr(
        MemoryFileSystem, "ls", lambda *args, **kwargs: [entry | {"size": None} for entry in ls(*args, **kwargs)]
    )
    assert pull(URL, tmp_path / "maps").moved == 7


@pytest.mark.parametrize("nbytes", [0, 5, 50, 150])
def test_a_kill_amidst_a_small_file_blocks_nobody(
    whole: Path, tmp_path: Path, memory: MemoryFileSystem, nbytes: int
) -> None:
    """Where files do not appear whole, as by sftp."""
    push_marker(tmp_path, whole)
    marker, header = (tmp_path / "manifest.json").read_bytes(), (whole / "store.json").read_bytes()
    assert len(marker) > 150
    memory.pipe_file("/bucket/maps/manifest.json", marker[:nbytes])
    assert push(whole, URL).moved == 7
    memory.pipe_file("/bucket/maps/manifest.json", marker)
    memory.pipe_file("/bucket/maps/store.json", header[: len(header) * nbytes // 200])
    assert push(whole, URL).moved == 1
    memory.pipe_file("/bucket/maps/manifest.json", marker[:nbytes])
    write_store(tmp_path / "other", make_rows(17, seed=9), 3)
    with pytest.raises(StoreMismatch, match="expected this store"):
        push(tmp_path / "other", URL)


def test_a_copy_in_the_cache_says_what_mends_it(whole: Path) -> None:
    push(whole, URL)
    copy = Path(str(MapStore(URL)))
    (copy / "shard-00001.h5").unlink()
    with pytest.raises(
        ShardError, match=rf"{copy}: expected a copy of {URL}, .* 1 of them .*; run `tokenmix pull {URL}`"
    ):
        MapStore(URL)
    pull(URL, copy)
    assert len(MapStore(URL)) == 17
    (copy / "store.json").write_bytes(b"\xff")
    with pytest.raises(StoreError, match=rf"{copy}: expected a copy of {URL}, found .*; or move {copy} elsewhere, and"):
        MapStore(URL)


@pytest.mark.parametrize("url", ["file://{}/maps", "{}/maps"])
def test_a_local_store_needs_no_cache(whole: Path, tmp_path: Path, url: str) -> None:
    push(whole, tmp_path / "maps")
    assert local_store(url.format(tmp_path)) == tmp_path / "maps"
    assert len(MapStore(url.format(tmp_path))) == 17
    assert not (tmp_path / "cache").exists()


class OddError(Exception):
    """Of a service's own package."""


class StatusError(OddError):
    """As aiohttp's."""

    status = 403


@pytest.mark.parametrize(
    ("method", "error", "message"),
    [
        ("ls", PermissionError(errno.EACCES, "Access Denied"), "expected the permission, found PermissionError"),
        ("pipe_file", PermissionError(errno.EACCES, "Access Denied"), "expected the permission, found PermissionError"),
        ("put_file", FileNotFoundError(errno.ENOENT, "NoSuchBucket"), "expected an existing place, found FileNotFound"),
        (
            "put_file",
            OddError("EndpointConnectionError"),
            "expected an answer, found OddError: .*files that have arrived",
        ),
        ("put_file", TimeoutError("slow"), "expected an answer, found TimeoutError: slow; check the network"),
        ("put_file", NotImplementedError(), "expected a place that can be written to"),
        (
            "put_file",
            OSError(errno.EROFS, "Read-only file system"),
            "expected a place that can be written to, found OS",
        ),
        (
            "put_file",
            FileExistsError(errno.EEXIST, "File exists"),
            "expected a place that can be written to, .* another",
        ),
        ("put_file", StatusError("Forbidden"), "expected the permission, found StatusError: Forbidden; log in"),
        (
            "put_file",
            PermissionError(errno.EACCES, "Permission denied", "/mnt/maps"),
            "expected the permission, found PermissionError: .*; change that of this file or folder",
        ),
    ],
)
def test_errors_of_a_push(
    whole: Path, monkeypatch: pytest.MonkeyPatch, method: str, error: Exception, message: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, method, fail_with(error))
        with pytest.raises(TransferError, match=f"memory://bucket/maps.*: {message}"):
            push(whole, URL)
    assert push(whole, URL).moved == 7


def fail_with(error: Exception) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_a_network_that_fails_midway_costs_one_file(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(whole, URL)
    get_file = MemoryFileSystem.get_file

    def get_some(fs: MemoryFileSystem, path: str, target: str, **options: Any) -> None:
        if "shard-00004" in path:
            Path(target).write_bytes(b"the first bytes")
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        get_file(fs, path, target, **options)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "get_file", get_some)
        with pytest.raises(TransferError, match=r"shard-00004.h5: expected an answer, found ConnectionResetError"):
            pull(URL, tmp_path / "maps")
    assert not (tmp_path / "maps").exists()
    left = contents(tmp_path / "maps.pull")
    assert not any(name.endswith(".tmp") for name in left)
    assert pull(URL, tmp_path / "maps").moved == 7 - len(left)
    assert verify(tmp_path / "maps").ok


def test_a_full_disk_stays_what_it_is(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the command can say what to do about it."""
    push(whole, URL)
    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "get_file", fail_with(OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(OSError, match="No space left") as caught:
            pull(URL, tmp_path / "maps")
    assert caught.value.errno == errno.ENOSPC
    assert pull(URL, tmp_path / "maps").moved == 7


def test_packages_and_protocols(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        StoreError, match=r"ftps3://x: expected a folder, hf://datasets/USER/NAME, .* found Protocol not"
    ):
        push(whole, "ftps3://x")
    monkeypatch.setattr(fsspec, "url_to_fs", fail_with(ImportError("Install s3fs to access S3")))
    with pytest.raises(
        StoreError, match=r"s3://b/x: expected the package .* run `pip install 'tokenmix-maps\[share\]'`"
    ):
        push(whole, "s3://b/x")


def test_passwords_are_not_shown(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def open_memory(url: str) -> tuple[MemoryFileSystem, str]:
        seen.append(url)
        return fsspec.filesystem("memory"), "/x"

    monkeypatch.setattr(fsspec, "url_to_fs", open_memory)
    done = push(whole, "sftp://me:secret@host/x")
    assert seen == ["sftp://me:secret@host/x"]
    assert done.url == "sftp://host/x"
    published = fsspec.filesystem("memory").cat(["/x/README.md", "/x/manifest.json"])
    assert b"secret" not in b"".join(published.values())
    error = FileNotFoundError("sftp://me:sec@ret@host/x?key=secret")
    monkeypatch.setattr(MemoryFileSystem, "cat_file", fail_with(error))
    with pytest.raises(TransferError, match=r"^sftp://host/x/.* FileNotFoundError: sftp://host/x; check") as caught:
        push(whole, "sftp://me:secret@host/x")
    assert "ret" not in str(caught.value).replace("secrets", "")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sftp://me:pass@word@host/x", "sftp://host/x"),
        ("simplecache::sftp://me:password@host:22/x", "simplecache::sftp://host:22/x"),
        ("https://host/x?X-Amz-Signature=abc&b=//c and more", "https://host/x and more"),
        ("abfs://container@account.dfs.core.windows.net/x", "abfs://container@account.dfs.core.windows.net/x"),
        ("hf://datasets/me/maps@v1", "hf://datasets/me/maps@v1"),
        ("/data/what?/maps", "/data/what?/maps"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


@pytest.mark.parametrize(
    ("place", "url"),
    [
        ("s3://bucket/a/", "s3://bucket/a"),
        (Path("s3://bucket/a"), "s3://bucket/a"),
        (Path("hf://datasets/me/maps@v1"), "hf://datasets/me/maps@v1"),
        ("simplecache::s3://bucket/a", "simplecache::s3://bucket/a"),
        (Path("file:///data/a"), "file:///data/a"),
        ("file://a", f"file://{Path.cwd()}/a"),
        ("file:///", "file:///"),
        ("S3://Bucket/a", "s3://Bucket/a"),
        (Path("SimpleCache::S3://b/a"), "simplecache::s3://b/a"),
        ("maps", None),
        ("/data/s3:/x", None),
        ("s3:/x", None),
        ("C:/maps", None),
    ],
)
def test_urls_are_told_from_paths(place: str | Path, url: str | None) -> None:
    assert url_of(place) == url
    expected = None if url else Path(place)
    assert path_of(place) == (Path(url.removeprefix("file://")) if url and url.startswith("file") else expected)
