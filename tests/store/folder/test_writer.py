"""Shards: what is refused, what is left behind, and that the same rows are the same bytes."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import store.folder.writer
from store import Header, MapStore, RowBatch, ShardError, ShardWriter, StoreError, create_store, verify
from store.folder.files import discard_leftovers, present_shards
from tests.store.conftest import make_header, make_rows, part, write_shard, write_store

HOST = socket.gethostname()


@pytest.fixture
def header(rows: RowBatch) -> Header:
    return make_header(rows, 6)


@pytest.fixture
def folder(tmp_path: Path, header: Header) -> Path:
    create_store(tmp_path / "maps", header)
    return tmp_path / "maps"


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_same_rows_same_bytes(folder: Path, header: Header, rows: RowBatch) -> None:
    first = write_shard(folder, header, 1, rows).read_bytes()
    time.sleep(1.1)  # HDF5 counts seconds
    assert write_shard(folder, header, 1, rows, step=1).read_bytes() == first


@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (18, 18), (36, 36)])
@pytest.mark.parametrize("count", [1, 7, 300])
def test_maps_can_be_mapped(tmp_path: Path, grid: tuple[int, int], count: int) -> None:
    write_store(tmp_path / "maps", make_rows(count, grid), count)
    with h5py.File(tmp_path / "maps" / "shard-00000.h5") as file:
        for name in ("label_logit", "view"):
            assert file[name].id.get_offset() % 4096 == 0
        assert {file[name].chunks for name in file} == {None}


@pytest.mark.skipif(not shutil.which("h5dump"), reason="needs h5ls and h5dump (Debian: hdf5-tools)")
def test_hdf5_tools_read_a_shard(maps: Path, rows: RowBatch) -> None:
    shard = maps / "shard-00001.h5"
    listed = subprocess.run(["h5ls", "-v", shard], capture_output=True, text=True, check=True).stdout
    assert "label_logit              Dataset {6/6, 3/3, 5/5}" in listed
    assert "null-padded UTF-8 string" in listed
    for dataset, values in (("label", rows.label), ("size", rows.size), ("label_logit", rows.payload["label_logit"])):
        command: list[str | Path] = ["h5dump", "-y", "-w", "1", "-o", "/dev/stdout", "-d", dataset, shard]
        dumped = subprocess.run(command, capture_output=True, text=True, check=True).stdout.partition("HDF5")[0]
        found = np.array([float(word) for word in dumped.replace(",", " ").split()])
        np.testing.assert_allclose(found, values[6:12].ravel(), rtol=1e-4)
    dumped = subprocess.run(["h5dump", "-H", shard], capture_output=True, text=True, check=True).stdout
    assert 'ATTRIBUTE "content_digest"' in dumped


def test_structures_carry_checksums(maps: Path) -> None:
    raw = (maps / "shard-00000.h5").read_bytes()
    assert raw[8] == 3  # version of the superblock, behind the signature
    assert raw.count(b"OHDR") == 12  # version 2 object headers: the root and eleven datasets
    assert b"GCOL" not in raw  # no heap for strings: it would have none


def wrong(name: str, change: Callable[[Any], Any]) -> Callable[[RowBatch], RowBatch]:
    def apply(batch: RowBatch) -> RowBatch:
        if name == "label_logit":
            return replace(batch, payload={name: change(batch.payload[name].copy())})
        value = getattr(batch, name)
        return replace(batch, **{name: change(value.copy() if isinstance(value, np.ndarray) else list(value))})

    return apply


def put(index: Any, value: Any) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        array[index] = value
        return array

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            wrong("label_logit", lambda a: a.astype("f4")),
            r"label_logit: expected float16 \[6, 3, 5\] for 6 keys, found fl",
        ),
        (wrong("label_logit", lambda a: a[:, :2]), r"label_logit: expected .* found float16 \[6, 2, 5\]"),
        (wrong("label_logit", put((2, 1, 1), np.nan)), r"line\\nbreak|key 'dog/Ελλ.*label_logit: expected finite"),
        (wrong("label_logit", put((0, 0, 0), np.inf)), "key 'cat/a b.jpg': label_logit: expected finite"),
        (wrong("label_logit", put((4, 0, 0), 1)), "label_logit: expected zeros"),
        (wrong("label", lambda a: a.astype("i8")), "label: expected int32"),
        (wrong("label", lambda a: a[:5]), r"label: expected int32 \[6\] for 6 keys, found int32 \[5\]"),
        (wrong("view", put((0, 2), 0)), "view: expected x0 < x1"),
        (wrong("view", put((4, 2), np.nan)), "view: expected finite"),
        (wrong("size", put((1, 0), 0)), "size: expected width and height >= 1"),
        (wrong("status", put(0, 9)), "status: expected one of"),
        (wrong("status", put(0, 1)), "error: expected a reason"),
        (wrong("status", put(4, 0)), "error: expected no text"),
        (wrong("error", lambda a: a[:5]), "error: expected 6 texts"),
        (wrong("orientation", put(1, 9)), "orientation: expected at most 8"),
        (lambda batch: replace(batch, orientation=None), r"orientation: expected uint8 \[6\] for 6 keys, found obj"),
        (wrong("fingerprint", lambda a: a.astype("i8")), "fingerprint: expected uint64"),
        (wrong("key", put(0, "")), "key '': expected 1 to 4096 bytes"),
        (wrong("key", put(0, "a\0b")), "without NUL"),
        (wrong("key", put(0, "\udcff")), "UTF-8 can hold; rename"),
        (wrong("key", put(0, "x" * 4097)), "found 4097"),
        (
            lambda batch: replace(batch, payload={"cam": batch.payload["label_logit"]}),
            r"\['label_logit'\], found \['cam'\]",
        ),
    ],
)
def test_rows_that_cannot_be(
    folder: Path, header: Header, rows: RowBatch, change: Callable[[RowBatch], RowBatch], message: str
) -> None:
    with pytest.raises(StoreError, match=message), ShardWriter(folder, header, 0) as writer:
        writer.append(change(part(rows, 0, 6)))
    assert names(folder) == ["store.json"]


def test_a_refused_batch_changes_nothing(folder: Path, header: Header, rows: RowBatch) -> None:
    with ShardWriter(folder, header, 0) as writer:
        writer.append(part(rows, 0, 4))
        with pytest.raises(StoreError, match="expected 6 rows, found 3 more after 4"):
            writer.append(part(rows, 4, 7))
        with pytest.raises(ShardError, match="expected 6 rows, found 4; append the rest"):
            writer.publish()
        assert present_shards(folder, header) == []
        writer.append(part(rows, 4, 4))
        writer.append(part(rows, 4, 6))
        writer.publish()
    assert names(folder) == ["shard-00000.h5", "store.json"]


def test_the_writer_keeps_no_reference(folder: Path, header: Header, rows: RowBatch) -> None:
    batch, before = part(rows, 0, 6), make_rows(17)
    with ShardWriter(folder, header, 0) as writer:
        writer.append(batch)
        batch.payload["label_logit"][:] = 7
        batch.label[:] = -1
        path = writer.publish()
    with h5py.File(path) as file:
        assert np.array_equal(file["label"], before.label[:6])
        assert np.array_equal(file["label_logit"], before.payload["label_logit"][:6])


def test_long_reasons_are_cut_at_a_letter(tmp_path: Path) -> None:
    batch = replace(make_rows(5), error=["", "", "", "", "é" * 400 + "\0\udcff"])
    write_store(tmp_path, batch, 5)
    assert MapStore(tmp_path).errors == {4: "é" * 256}


def test_leaving_early_leaves_nothing(folder: Path, header: Header, rows: RowBatch) -> None:
    with ShardWriter(folder, header, 2) as writer:
        writer.append(part(rows, 12, 17))
        assert len(names(folder)) == 2
    assert names(folder) == ["store.json"]


def test_no_such_shard(folder: Path, header: Header) -> None:
    with pytest.raises(IndexError, match="shard 3: expected 0 <= shard < 3"):
        ShardWriter(folder, header, 3)


def test_a_bad_disk_is_noticed(folder: Path, header: Header, rows: RowBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    def lossy(file: Path, data: memoryview) -> None:
        damaged = bytearray(data)
        damaged[damaged.index(rows.payload["label_logit"][0].tobytes())] ^= 1
        file.write_bytes(damaged)

    monkeypatch.setattr(store.folder.writer, "write_synced", lossy)
    with pytest.raises(ShardError, match="read back wrong: .*row 0, key 'cat/a b.jpg': digest"):
        write_shard(folder, header, 0, rows)
    assert names(folder) == ["store.json"]


FULL_DISK = """
import resource, sys
from pathlib import Path
from tests.store.conftest import make_header, make_rows, write_shard
rows = make_rows(17)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    write_shard(Path(sys.argv[1]), make_header(rows, 6), 0, rows)
except OSError as error:
    print(error.strerror)
"""


def test_a_full_disk_is_an_error_and_not_a_crash(folder: Path, header: Header, rows: RowBatch) -> None:
    root = Path(__file__).parents[3]
    ended = subprocess.run([sys.executable, "-c", FULL_DISK, folder], cwd=root, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "File too large\n", "")
    assert names(folder) == ["store.json"]


KILLED = """
import os, signal, sys
from tests.store.conftest import make_header, make_rows, part
from store import ShardWriter
rows = make_rows(17)
writer = ShardWriter(sys.argv[1], make_header(rows, 6), 0)
writer.append(part(rows, 0, 6))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_costs_its_shard_only(folder: Path, header: Header, rows: RowBatch) -> None:
    root = Path(__file__).parents[3]
    child = subprocess.Popen([sys.executable, "-c", KILLED, folder], cwd=root)
    assert child.wait() == -signal.SIGKILL
    leftover = folder / f"shard-00000.h5.{HOST}.{child.pid}.tmp"
    assert leftover.exists()
    assert present_shards(folder, header) == []
    discard_leftovers(folder)
    assert not leftover.exists()
    for shard in range(3):
        write_shard(folder, header, shard, rows)
    assert verify(folder).ok


def test_only_the_leftovers_of_the_dead_go(folder: Path, header: Header) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    mine, parent = os.getpid(), os.getppid()
    gone = [
        f"shard-00000.h5.{HOST}.{dead.pid}.tmp",
        f"shard-00001.h5.{HOST}.{mine}.tmp",
        f"store.json.{HOST}.{dead.pid}.tmp",
    ]
    kept = [
        f"shard-00000.h5.{HOST}.{parent}.tmp",
        f"shard-00000.h5.{HOST}-2.{dead.pid}.tmp",
        f"shard-00000.h5.{HOST}.{10**30}.tmp",
        f"shard-00000.h5.{dead.pid}.tmp",
        "notes.tmp",
    ]
    for name in gone + kept:
        (folder / name).touch()
    with ShardWriter(folder, header, 2) as writer:
        discard_leftovers(folder)
        open_now = f"shard-00002.h5.{HOST}.{mine}.tmp"
        assert names(folder) == sorted([*kept, open_now, "store.json"])
        writer.discard()


def test_two_writers_of_one_shard(folder: Path, header: Header, rows: RowBatch) -> None:
    with ShardWriter(folder, header, 0) as first, ShardWriter(folder, header, 0) as second:
        first.append(part(rows, 0, 6))
        second.append(part(rows, 0, 6))
        published = first.publish().read_bytes()
        assert second.publish().read_bytes() == published
    assert names(folder) == ["shard-00000.h5", "store.json"]


def test_only_whole_names_count_as_present(folder: Path, header: Header, rows: RowBatch) -> None:
    write_shard(folder, header, 1, rows)
    for name in ("shard-00000.h5.x.1.tmp", "shard-0.h5", "shard-000002.h5", "shard-00003.h5", "Shard-00002.h5"):
        (folder / name).touch()
    (folder / "shard-00000.h5").mkdir()
    assert present_shards(folder, header) == [1]
