"""verify --repair: what is bad goes, what is good or not ours stays, and no job at work is disturbed."""

import errno
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest

from store import Cause, MapStore, RowBatch, StoreError, VerifyReport, read_header, repair, verify
from store.folder.head import Head, write_head
from store.spec import header_name
from tests.store.conftest import (
    contents,
    flip,
    make_header,
    make_rows,
    write_extended,
    write_shard,
    write_store,
)

HEAD = Head(np.ones((10, 3), np.float32), np.ones(10, np.float32))
DEAD = f"{socket.gethostname()}.{2**30}"


def rows_of_features() -> RowBatch:
    rows = make_rows(17, (1, 2))
    return replace(rows, payload={"features": np.repeat(rows.payload["label_logit"][:, None], 3, axis=1)})


@pytest.fixture(scope="module")
def sound_features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a file of every sort: a head, six shards, and headers and keys of two extensions."""
    path = tmp_path_factory.mktemp("features") / "maps"
    header = write_extended(path, rows_of_features(), 4, [6, 11], kind="features", depth=3)
    write_head(path, header, HEAD)
    return path


@pytest.fixture
def features(tmp_path: Path, sound_features: Path) -> Path:
    return shutil.copytree(sound_features, tmp_path / "features")


class Case(NamedTuple):
    """Damage to one file, and what `repair` makes of it: the file is "gone", "as before" the damage, or "left"."""

    file: str
    damage: Callable[[Path], object]
    after: str


def flip_row(shard: Path) -> None:
    with h5py.File(shard) as file:
        at = file["features"].id.get_offset()
    flip(shard, at)


def exchange_keys(shard: Path) -> None:
    """A sound shard of other images."""
    batch = rows_of_features()
    write_shard(shard.parent, read_header(shard.parent), 1, replace(batch, key=[*batch.key[:5], "new", *batch.key[6:]]))


def foreign_header(file: Path) -> None:
    """A sound header of another store."""
    file.write_text(replace(read_header(file.parent, 1), teacher={"name": "x", "classes": 10}).to_json(), "utf-8")


CASES = {
    Cause.MISSING_SHARD: Case("shard-00001.h5", Path.unlink, "gone"),
    Cause.DAMAGED_SHARD: Case("shard-00001.h5", lambda file: os.truncate(file, 5000), "gone"),
    Cause.CHANGED_SHARD: Case("shard-00001.h5", lambda file: flip(file, -1), "gone"),
    Cause.DAMAGED_ROW: Case("shard-00001.h5", flip_row, "gone"),
    Cause.WRONG_LIST: Case("shard-00001.h5", exchange_keys, "left"),
    Cause.MISSING_HEAD: Case("head.h5", Path.unlink, "gone"),
    Cause.DAMAGED_HEAD: Case("head.h5", lambda file: flip(file, 200), "gone"),
    Cause.MISSING_EARLIER_HEADER: Case("store-1.json", Path.unlink, "as before"),
    Cause.DAMAGED_EARLIER_HEADER: Case("store-1.json", lambda file: os.truncate(file, 99), "as before"),
    Cause.FOREIGN_EARLIER_HEADER: Case("store-1.json", foreign_header, "as before"),
    Cause.WRONG_KEYS: Case("store-2.keys", lambda file: flip(file, 3), "as before"),
    Cause.LEFTOVER: Case(f"head.h5.{DEAD}.tmp", Path.touch, "gone"),
    Cause.UNPLANNED_SHARD: Case("shard-00099.h5", Path.touch, "left"),
    Cause.FOREIGN_FILE: Case("head.h5.old", Path.touch, "left"),
}


def test_there_is_a_case_of_every_cause() -> None:
    assert {*CASES, Cause.UNREADABLE_SHARD} == set(Cause)


@pytest.mark.parametrize("cause", CASES)
def test_only_the_file_named_is_touched(features: Path, cause: Cause) -> None:
    case, sound = CASES[cause], contents(features)
    case.damage(features / case.file)
    damaged = contents(features)
    report, _ = repair(features)
    found = {(problem.cause, problem.file) for problem in report.problems}
    assert found == {(cause, None if cause is Cause.WRONG_LIST else case.file)}
    after = contents(features)
    aside = after.pop(f"{case.file}.aside", None)
    assert (aside is not None) == (cause is Cause.FOREIGN_EARLIER_HEADER)
    expected: dict[str, dict[str, bytes]] = {"gone": {}, "as before": sound, "left": damaged}
    assert after.pop(case.file, None) == expected[case.after].get(case.file)
    damaged.pop(case.file, None)
    assert after == damaged


@pytest.mark.parametrize("owner", [DEAD, "zeus.7"])
@pytest.mark.parametrize(
    "file", ["head.h5", "shard-00001.h5", "store.json", "store-1.json", "store-2.json", "store-1.keys", "store-2.keys"]
)
def test_leftovers_beside_a_sound_file(features: Path, file: str, owner: str) -> None:
    sound = contents(features)
    left = features / f"{file}.{owner}.tmp"
    left.write_bytes(b"torn")
    os.utime(left, (0, 0))
    assert repair(features)[1] == [f"{left.name}: left by a dead writer, removed"]
    assert contents(features) == sound
    store = MapStore(features)
    np.testing.assert_array_equal(store.head.weight, HEAD.weight)
    assert store.read(range(17)).shape == (17, 1, 2)


def test_leftovers_of_other_hosts_stay_while_they_are_young(features: Path) -> None:
    (features / "head.h5.zeus.7.tmp").touch()
    before = contents(features)
    assert repair(features)[1] == []
    assert contents(features) == before


def test_a_shard_that_the_file_system_cannot_read_is_left(maps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> bool:
        raise OSError(errno.EIO, "Input/output error")

    before = contents(maps)
    monkeypatch.setattr("store.format.check_shard.has_checksum", fail)
    report, done = repair(maps)
    assert [(problem.cause, problem.shard) for problem in report.problems] == [
        (Cause.UNREADABLE_SHARD, shard) for shard in range(3)
    ]
    assert done == []
    assert contents(maps) == before


def test_a_shard_replaced_while_the_store_was_checked_is_left(maps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(maps)
    flip(maps / "shard-00001.h5")

    def verify_slowly(path: Path) -> VerifyReport:
        report = verify(path)
        (maps / "shard-00001.h5").write_bytes(before["shard-00001.h5"])
        return report

    monkeypatch.setattr("store.checking.repair.verify", verify_slowly)
    report, done = repair(maps)
    assert (len(report.problems), done) == (1, [])
    assert contents(maps) == before


def test_a_folder_in_the_place_of_a_file_is_set_aside(features: Path) -> None:
    for name in ("head.h5", header_name(1)):
        (features / name).unlink()
        (features / name).mkdir()
    repair(features)
    assert (features / "head.h5.aside").is_dir()
    assert (features / "store-1.json.aside").is_dir()
    assert (features / "store-1.json").is_file()


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
    write_head(tmp_path, header, HEAD)
    flip(tmp_path / "head.h5", 200)
    (problem,) = verify(tmp_path).problems
    assert str(problem).startswith(f"head.h5: {tmp_path}/head.h5: ")
    assert str(problem).endswith("remove this file and run `tokenmix extract` again")
    assert repair(tmp_path)[1] == ["head.h5: damaged, removed"]


def test_a_job_at_work_is_not_disturbed(maps: Path) -> None:
    claim = maps / "shard-00001.h5.zeus.7.tmp"
    claim.touch()
    flip(maps / "shard-00000.h5")
    with pytest.raises(
        StoreError, match="expected no job at work, found zeus pid 7 at shard 1, last sign of life 0 s ago"
    ):
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


def test_what_the_dead_left_goes(maps: Path) -> None:
    left = maps / f"shard-00001.h5.{socket.gethostname()}.{2**30}.tmp"
    left.touch()
    assert repair(maps)[1] == [f"{left.name}: left by a dead writer, removed"]
    assert verify(maps).ok
