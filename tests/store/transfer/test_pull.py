"""Pulling: verified before it is a store, one process at a time, and nothing of one's own is lost."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from store import MapStore, StoreError, StoreMismatch, TransferError, pull, push, read_header, verify
from store.transfer.manifest import Manifest
from store.transfer.target import put_in_place
from tests.store.conftest import contents, flip, make_rows, renew_checksum, write_store


@pytest.fixture
def there(tmp_path: Path, whole: Path) -> Path:
    """The store, pushed."""
    push(whole, tmp_path / "there")
    return tmp_path / "there"


def test_the_copy_is_the_store_and_its_card(tmp_path: Path, there: Path, whole: Path) -> None:
    told: list[tuple[int, int]] = []
    done = pull(f"file://{there}", tmp_path / "deep" / "maps", on_progress=lambda *bytes_: told.append(bytes_))
    card = (there / "README.md").read_bytes()
    assert contents(done.store) == {**contents(whole), "README.md": card}
    assert os.listdir(done.store.parent) == ["maps"]  # neither a lock nor a folder of parts
    assert told[-1] == (done.nbytes, done.nbytes)
    assert (done.moved, done.files) == (7, 7)
    assert verify(done.store).ok
    assert pull(there, done.store).moved == 0


def test_a_flipped_bit_never_becomes_a_store(tmp_path: Path, there: Path, whole: Path) -> None:
    flip(there / "shard-00004.h5")
    with pytest.raises(TransferError, match=r"shard-00004.h5: expected \d+ bytes with SHA-256 .*, found"):
        pull(there, tmp_path / "maps")
    assert not (tmp_path / "maps").exists()
    with pytest.raises(StoreError):
        MapStore(tmp_path / "maps.pull")
    (there / "shard-00004.h5").unlink()
    push(whole, there)
    assert pull(there, tmp_path / "maps").moved < 7  # the others had arrived


def test_a_store_that_was_pushed_wrong_is_refused(tmp_path: Path, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests that fit prove that nothing changed on the way, not that it was right."""
    shard = there / "shard-00004.h5"
    flip(shard)
    manifest = json.loads((there / "manifest.json").read_text())
    manifest["files"][shard.name]["sha256"] = hashlib.sha256(shard.read_bytes()).hexdigest()
    (there / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match=r"expected a sound store, found . problems: shard-00004.h5"):
        pull(there, tmp_path / "maps")
    assert not (tmp_path / "maps").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m | {"version": 2}, "version: expected 1, found 2; a newer tokenmix-maps may read it"),
        (lambda m: m | {"version": True}, "version: expected 1, found True"),
        (lambda m: m | {"format": "tokenmix-maps"}, "expected a JSON object with format 'tokenmix-maps-manifest'"),
        (lambda m: m | {"complete": 1}, "expected content_digest, complete and files"),
        (lambda m: m | {"files": []}, "expected content_digest, complete and files"),
        (lambda m: m | {"content_digest": "0" * 64}, "expected the header and the files that manifest.json names"),
        (lambda m: m | {"files": {}}, "expected the header and the files that manifest.json names"),
        (
            lambda m: m["files"].pop("shard-00001.h5") and m,
            "expected the header and the files that manifest.json names",
        ),
        (lambda m: [m], "expected a JSON object with format"),
    ],
)
def test_a_manifest_is_read_strictly(
    tmp_path: Path, there: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    file = there / "manifest.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(StoreError, match=message):
        pull(there, tmp_path / "maps")
    assert not (tmp_path / "maps").exists()


@pytest.mark.parametrize(
    "name",
    [
        "../evil.h5", "/tmp/evil.h5", "shard-00001.h5/../../evil", "evil.py", "README.md", f"shard-{5 * chr(0x663)}.h5",
        pytest.param(f"store-{'9' * 5000}.json", id="5000 digits"),
    ],
)  # fmt: skip
def test_a_manifest_names_files_of_a_store_only(tmp_path: Path, there: Path, name: str) -> None:
    file = there / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["files"][name] = manifest["files"]["shard-00001.h5"]
    file.write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match="expected files of a store with nbytes and sha256, found"):
        pull(there, tmp_path / "maps")


def test_a_newer_format_is_said_to_be_one(tmp_path: Path, there: Path) -> None:
    header = there / "store.json"
    header.write_text(header.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(StoreError, match=r"store.json: header field version: expected 1, found 2"):
        pull(there, tmp_path / "maps")


def test_places_without_a_store(tmp_path: Path, whole: Path) -> None:
    for place in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(TransferError, match=r"not a pushed store: expected manifest.json there, found none"):
            pull(place, tmp_path / "maps")
    with pytest.raises(TransferError, match=r"found files of a store without one; push them"):
        pull(whole, tmp_path / "maps")


def test_what_is_in_the_way_stays(tmp_path: Path, there: Path) -> None:
    other = tmp_path / "other"
    write_store(other, make_rows(17, seed=9), 3)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("")
    for name, message in (
        ("other", "or no store, found another store, .* pull into another folder"),
        ("file", "expected an empty folder, none, or a copy of this store"),
        ("folder", "expected an empty folder, none, or a copy of this store"),
    ):
        with pytest.raises(StoreError, match=message):
            pull(there, tmp_path / name)
    assert verify(other).ok
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    assert pull(there, tmp_path / "link").moved == 7
    assert (tmp_path / "link").is_symlink()
    assert verify(tmp_path / "empty").ok
    with pytest.raises(StoreError, match="expected a folder that can be renamed, found a mount point; give a folder"):
        pull(there, "/proc")


def test_somebody_elses_folder_is_not_taken_for_parts(tmp_path: Path, there: Path) -> None:
    (tmp_path / "maps.pull").mkdir()
    (tmp_path / "maps.pull" / "thesis.tex").write_text("")
    with pytest.raises(StoreError, match=r"maps.pull: expected what an earlier pull .*, found thesis.tex; move"):
        pull(there, tmp_path / "maps")


def test_a_store_of_that_name_is_not_taken_for_parts(tmp_path: Path, there: Path, whole: Path) -> None:
    own = tmp_path / "maps.pull"
    write_store(own, make_rows(17, seed=9), 3)
    found = contents(own)
    for _ in range(2):  # also where nothing is to be pulled
        with pytest.raises(StoreError, match=r"maps.pull: expected what an earlier pull of this store left, found sto"):
            pull(there, tmp_path / "maps")
        assert contents(own) == found
        shutil.copytree(whole, tmp_path / "maps", dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "maps")
    shutil.rmtree(own)
    shutil.copytree(whole, own)  # as by a pull that was killed at its very end
    (own / "shard-00002.h5").unlink()
    assert pull(there, tmp_path / "maps").moved == 1


def test_a_link_among_the_parts_does_not_replace_what_it_leads_to(tmp_path: Path, there: Path, whole: Path) -> None:
    """Where locks do not hold, another process may have put it there."""
    target, staging = shutil.copytree(whole, tmp_path / "maps"), tmp_path / "maps.pull"
    staging.mkdir()
    (staging / "shard-00000.h5").symlink_to(target / "shard-00000.h5")
    manifest = Manifest.from_json((there / "manifest.json").read_bytes())
    put_in_place(staging, target, manifest, frozenset(), update=True)
    assert contents(target) == contents(whole)


def test_a_folder_of_links_is_pulled(tmp_path: Path, there: Path) -> None:
    """As the Hugging Face hub's own cache has."""
    (tmp_path / "links").mkdir()
    for file in there.iterdir():
        (tmp_path / "links" / file.name).symlink_to(file)
    assert pull(tmp_path / "links", tmp_path / "maps").moved == 7
    (tmp_path / "links" / "shard-00002.h5").unlink()
    (tmp_path / "links" / "shard-00002.h5").symlink_to(tmp_path / "nowhere")
    with pytest.raises(TransferError, match=r"shard-00002.h5: expected an existing place, found FileNotFoundError"):
        pull(tmp_path / "links", tmp_path / "again")


def test_a_file_of_another_length_is_seen_before_anything_travels(tmp_path: Path, there: Path) -> None:
    shard = there / "shard-00004.h5"
    shard.write_bytes(shard.read_bytes()[:-1])
    for found in (r"found \d+; was it pushed to", "found no such file; was it pushed to"):
        with pytest.raises(TransferError, match=rf"shard-00004.h5: expected \d+ bytes, {found} meanwhile"):
            pull(there, tmp_path / "maps")
        assert list((tmp_path / "maps.pull").iterdir()) == []
        shard.unlink(missing_ok=True)


def test_a_page_that_is_far_too_long_is_not_read(tmp_path: Path, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.transfer.published._MOST_NBYTES", 100)
    with pytest.raises(StoreError, match=r"manifest.json: expected at most 100 bytes, found \d+; remove that file"):
        pull(there, tmp_path / "maps")


def test_a_store_is_pulled_into_a_folder_only(tmp_path: Path, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("s3://bucket/maps", Path("S3://bucket/maps")):
        with pytest.raises(StoreError, match=r"s3://bucket/maps: expected a folder, found a URL; `push` copies a fold"):
            pull(there, place)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert pull(there, f"file://{tmp_path}/maps").store == tmp_path / "maps"


def test_a_torn_copy_is_said_to_be_one(tmp_path: Path, there: Path) -> None:
    target = pull(there, tmp_path / "maps").store
    (target / "store.json").write_text("{")
    with pytest.raises(StoreError, match=rf"{target}: expected a copy of file://{there}, found .*; or move {target}"):
        pull(there, target)


def test_an_earlier_copy_is_extended_under_its_readers(tmp_path: Path, before: Path, extended: Path) -> None:
    push(before, tmp_path / "there")
    target = pull(tmp_path / "there", tmp_path / "maps").store
    (target / "README.md").write_text("mine")
    reader = MapStore(target)
    expected = reader.read(range(9))
    inodes = {file.name: file.stat().st_ino for file in target.iterdir()}
    push(extended, tmp_path / "there")
    assert pull(tmp_path / "there", target).moved == len(contents(extended)) - len(contents(before))
    assert (reader.read(range(9)) == expected).all()
    assert inodes.items() <= {file.name: file.stat().st_ino for file in target.iterdir()}.items()
    assert len(MapStore(target)) == 17
    assert verify(target).ok
    assert not (tmp_path / "maps.pull").exists()
    push(before, tmp_path / "old")
    with pytest.raises(StoreMismatch, match=r"found one with 1 extensions; the one to pull has 0; push it"):
        pull(tmp_path / "old", target)


def test_a_damaged_or_incomplete_copy_is_mended(tmp_path: Path, there: Path, whole: Path) -> None:
    target = shutil.copytree(whole, tmp_path / "maps")
    flip(target / "shard-00000.h5")
    (target / "shard-00002.h5").unlink()
    assert pull(there, target).moved == 2
    assert verify(target).ok


def test_a_sound_shard_of_ones_own_is_not_replaced(tmp_path: Path, there: Path, whole: Path) -> None:
    target = shutil.copytree(whole, tmp_path / "maps")
    shard = target / "shard-00000.h5"
    shard.write_bytes(shard.read_bytes()[:-16] + bytes(16))
    renew_checksum(shard)
    found = contents(target)
    with pytest.raises(StoreMismatch, match=r"expected the file that was pushed, or a damaged one, found another that"):
        pull(there, target)
    assert contents(target) == found


def test_headers_of_other_library_versions_are_the_same(tmp_path: Path, there: Path) -> None:
    target = tmp_path / "maps"
    write_store(target, make_rows(17), 3, versions={"h5py": "4"})
    assert pull(there, target).moved == 0
    assert read_header(target).versions == {"h5py": "4"}
