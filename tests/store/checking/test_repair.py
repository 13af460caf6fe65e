"""verify --repair: what is bad goes, what is good or not ours stays, and nobody at work is disturbed."""

import os
import shutil
import socket
from pathlib import Path

import h5py
import numpy as np
import pytest

from store import RowBatch, StoreError, repair, verify
from store.folder.head import Head, write_head
from store.index import write_index
from tests.store.conftest import contents, flip, make_header, make_rows, write_shard, write_store


def test_a_sound_store_is_left_as_it_is(maps: Path) -> None:
    before = contents(maps)
    report, done = repair(maps)
    assert (report.problems, done) == ((), [])
    assert contents(maps) == before


def test_damaged_shards_go_and_nothing_else(maps: Path, rows: RowBatch) -> None:
    before = contents(maps)
    flip(maps / "shard-00000.h5")
    os.truncate(maps / "shard-00002.h5", 20_000)
    (maps / "notes.txt").write_text("mine")
    report, done = repair(maps)
    assert {problem.shard for problem in report.problems} == {0, 2, None}
    assert done == ["shard-00000.h5: damaged, removed", "shard-00002.h5: damaged, removed"]
    assert sorted(contents(maps)) == ["notes.txt", "shard-00001.h5", "store.json"]
    for shard in (0, 2):
        write_shard(maps, make_header(rows, 6), shard, rows)
    (maps / "notes.txt").unlink()
    assert contents(maps) == before


def test_whole_files_in_a_wrong_place_are_kept(maps: Path, tmp_path: Path) -> None:
    write_store(tmp_path / "other", make_rows(17), 6, teacher={"name": "another"})
    foreign = (tmp_path / "other" / "shard-00001.h5").read_bytes()
    for aside in ("shard-00001.h5.aside", "shard-00001.h5.aside1"):
        shutil.copy(tmp_path / "other" / "shard-00001.h5", maps / "shard-00001.h5")
        assert repair(maps)[1] == [f"shard-00001.h5: whole, but not what belongs here; now {aside}"]
        assert (maps / aside).read_bytes() == foreign
    assert not (maps / "shard-00001.h5").exists()


def test_a_shard_that_hdf5_wrote_to_is_damaged(maps: Path) -> None:
    with h5py.File(maps / "shard-00001.h5", "r+") as file:
        file["label"][0] = 99
    assert repair(maps)[1] == ["shard-00001.h5: damaged, removed"]


def test_a_damaged_head_goes(tmp_path: Path) -> None:
    rows = make_rows(4, (1, 2))
    batch = RowBatch(**{**vars(rows), "payload": {"features": np.zeros((4, 3, 1, 2), np.float16)}})
    header = write_store(tmp_path, batch, 4, kind="features", depth=3)
    assert ["head.h5" in str(problem) for problem in repair(tmp_path)[0].problems] == [True]  # missing
    write_head(tmp_path, header, Head(np.ones((1, 3), np.float32), np.ones(1, np.float32)))
    flip(tmp_path / "head.h5", 200)
    (problem,) = verify(tmp_path).problems
    assert str(problem).startswith(f"head.h5: {tmp_path}/head.h5: ")
    assert str(problem).endswith("remove this file and run `tokenmix extract` again")
    assert repair(tmp_path)[1] == ["head.h5: damaged, removed"]


def test_somebody_at_work_is_not_disturbed(maps: Path) -> None:
    claim = maps / "shard-00001.h5.zeus.7.tmp"
    claim.touch()
    flip(maps / "shard-00000.h5")
    with pytest.raises(StoreError, match="expected nobody at work, found zeus pid 7 at shard 1, heard of 0 s ago"):
        repair(maps)
    assert (maps / "shard-00000.h5").exists()


def test_the_silent_of_other_machines_go_where_the_file_is_complete(maps: Path) -> None:
    (maps / "shard-00001.h5").unlink()
    left = [maps / f"{name}.zeus.7.tmp" for name in ("shard-00000.h5", "shard-00001.h5", "store.json")]
    for file in left:
        file.touch()
        os.utime(file, (0, 0))
    assert repair(maps)[1] == [f"{file.name}: left by a dead writer, removed" for file in (left[0], left[2])]
    assert left[1].exists()  # its machine may have another clock
    assert any("may be removed by hand" in str(problem) for problem in verify(maps).problems)


def test_the_index_goes_with_a_shard(maps: Path) -> None:
    write_index(maps)
    assert repair(maps)[1] == []
    flip(maps / "shard-00001.h5")
    gone = "index.h5: out of date, removed; `tokenmix index` writes it again"
    assert repair(maps)[1] == ["shard-00001.h5: damaged, removed", gone]
    (maps / "index.h5").write_bytes(b"torn")
    assert repair(maps)[1] == [gone]


def test_what_the_dead_left_goes(maps: Path) -> None:
    left = maps / f"shard-00001.h5.{socket.gethostname()}.{2**30}.tmp"
    left.touch()
    assert repair(maps)[1] == [f"{left.name}: left by a dead writer, removed"]
    assert verify(maps).ok
