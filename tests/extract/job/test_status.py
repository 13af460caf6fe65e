"""The state of a store by its folder alone: counts, speed, and who is at work."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from extract.job.status import read_status
from store import Header, StoreError, create_store
from store.folder.claims import SILENT_S

HEADER = Header(
    "label",
    {},
    {},
    (2, 2),
    "float16",
    1005,
    10,
    {"root_name": "images", "class_names": [], "teacher_class": [], "digest": ""},
    {},
)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """100 s old; shards 0-38 and the short last one are done."""
    monkeypatch.setenv("PATH", "")  # whatever Slurm this machine belongs to
    path = tmp_path / "maps"
    create_store(path, HEADER)
    now = time.time()
    os.utime(path / "store.json", (now - 100, now - 100))
    for shard in [*range(39), 100]:
        file = path / f"shard-{shard:05d}.h5"
        file.touch()
        os.utime(file, (now - 1 - shard,) * 2)
    return path


def claim(store: Path, shard: int, host: str, pid: int, age_s: float, **note: float | str) -> None:
    path = store / f"shard-{shard:05d}.h5.{host}.{pid}.tmp"
    path.write_text(json.dumps(note) if note else "")
    os.utime(path, (time.time() - age_s,) * 2)


def test_counts_and_speed(store: Path) -> None:
    status = read_status(store)
    assert (status.shards_done, status.shards, status.rows_done, status.rows) == (40, 101, 395, 1005)
    assert status.rate == pytest.approx(390 / 100, rel=0.05)
    assert status.eta_s == pytest.approx(610 / status.rate)
    assert not status.complete


def test_only_the_last_minutes_count(store: Path) -> None:
    for file in store.iterdir():
        os.utime(file, (time.time() - 3600,) * 2)
    status = read_status(store)
    assert (status.rate, status.eta_s) == (0, None)


def test_who_works_and_who_does_not(store: Path) -> None:
    usual: dict[str, Any] = dict(done=100, seconds=10.0, read_s=2.0, compute_s=7.0, write_s=1.0)
    for node in range(3):
        claim(store, 50 + node, f"node{node}", 7, 1, **usual)
    claim(store, 60, "node0", 8, 1, **{**usual, "done": 20})
    claim(store, 61, "node0", 9, SILENT_S + 60, **usual)
    claim(store, 62, socket.gethostname(), 2**30, 1, **usual)
    claim(store, 63, "node1", 10, 1)
    claim(store, 64, "node1", 10, 1)
    claim(store, 65, "node2", 11, SILENT_S + 60, **usual, waits_for="a/1.jpg", waits_s=60.0)
    states = {(worker.host, worker.pid): worker for worker in read_status(store).workers}
    assert [states["node0", pid].state for pid in (7, 8, 9)] == ["working", "slow", "silent"]
    assert states[socket.gethostname(), 2**30].state == "dead"
    assert states["node2", 11].state == "stuck"
    assert (states["node2", 11].waits_for, states["node0", 7].waits_for) == ("a/1.jpg", None)
    assert states["node2", 11].waits_s == pytest.approx(SILENT_S + 120, abs=2)
    assert states["node1", 10].shards == (63, 64)
    assert states["node1", 10].rate is None
    assert states["node0", 7].rate == 10
    assert (states["node0", 7].share_read, states["node0", 7].share_compute) == (0.2, 0.7)


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not a store"):
        read_status(tmp_path)


def test_status_imports_neither_torch_nor_timm() -> None:
    probe = "import sys, extract.job.status; assert not {'torch', 'timm', 'torchvision'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", probe], check=True)
