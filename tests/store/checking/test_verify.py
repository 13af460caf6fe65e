"""verify: one broken store per rule; it names the shard, the row and the key, and never crashes."""

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from xxhash import xxh3_64_intdigest

from store import Problem, RowBatch, StoreError, read_header, verify
from tests.store.conftest import ALL_COLUMNS, make_rows, write_shard, write_store

SHARD = "shard-00001.h5"


def problems(maps: Path) -> list[Problem]:
    report = verify(maps)
    assert (report.rows, report.shards) == (17, 3)
    assert report.ok == (not report.problems)
    return list(report.problems)


def test_a_sound_store(maps: Path) -> None:
    assert problems(maps) == []
    assert verify(maps).unreadable == 1


def offset(maps: Path, dataset: str, row: int) -> int:
    """Where a row of the middle shard lies in its file."""
    with h5py.File(maps / SHARD) as file:
        found = file[dataset]
        return int(found.id.get_offset() + row * found.id.get_storage_size() // len(found))


@pytest.mark.parametrize(
    "dataset", ["label_logit", "label", "prediction", "size", "view", "status", *ALL_COLUMNS, "key", "digest"]
)
@pytest.mark.parametrize("bit", [0, 7])
def test_one_flipped_bit(maps: Path, rows: RowBatch, dataset: str, bit: int) -> None:
    at = offset(maps, dataset, row=2)
    raw = bytearray((maps / SHARD).read_bytes())
    raw[at] ^= 1 << bit
    (maps / SHARD).write_bytes(raw)
    found = [problem for problem in problems(maps) if problem.row is not None]
    assert {(problem.shard, problem.row) for problem in found} == {(1, 8)}
    assert any(problem.message.startswith("digest: the row was changed") for problem in found)
    if dataset != "key":
        assert {problem.key for problem in found} == {rows.key[8]}


def test_a_flipped_bit_in_a_reason(maps: Path) -> None:
    raw = (maps / "shard-00000.h5").read_bytes()
    (maps / "shard-00000.h5").write_bytes(raw.replace(b"2 bytes missing", b"3 bytes missing"))
    assert [(p.row, p.message) for p in problems(maps)] == [(4, "digest: the row was changed after it was written")]


def rewrite(dataset: str, value: object) -> Callable[[Path], object]:
    """Change a row and its digest, as a faulty writer would."""

    def apply(maps: Path) -> None:
        with h5py.File(maps / SHARD, "r+") as file:
            file[dataset][0] = value
            names = ("label_logit", "label", "prediction", "size", "view", "status", *ALL_COLUMNS, "key")
            row = b"".join(file[name][0].tobytes() if name != "key" else file[name][0] for name in names)
            error = file["error"][0]
            file["digest"][0] = xxh3_64_intdigest(row + (b"\0" + error if error else b""))

    return apply


def attribute(name: str, value: object) -> Callable[[Path], object]:
    def apply(maps: Path) -> None:
        with h5py.File(maps / SHARD, "r+") as file:
            if value is None:
                del file.attrs[name]
            else:
                file.attrs[name] = value

    return apply


def dataset(name: str, change: Callable[[np.ndarray], np.ndarray] | None) -> Callable[[Path], object]:
    def apply(maps: Path) -> None:
        with h5py.File(maps / SHARD, "r+") as file:
            values = file[name][()]
            del file[name]
            if change is not None:
                file[name] = change(values)

    return apply


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda maps: (maps / name).write_bytes(content)


def cut(nbytes: int) -> Callable[[Path], object]:
    return lambda maps: os.truncate(maps / SHARD, nbytes)


def swap_rows(maps: Path) -> None:
    """Two sound shards made from another order of the images."""
    rows = make_rows(17)
    order = [*range(6), 7, 6, *range(8, 17)]
    columns: dict[str, Any] = {name: np.asarray(getattr(rows, name))[order] for name in vars(rows) if name != "payload"}
    texts = {name: columns.pop(name).tolist() for name in ("key", "error")}
    swapped = replace(rows, payload={"label_logit": rows.payload["label_logit"][order]}, **columns, **texts)
    write_shard(maps, read_header(maps), 1, swapped)


def foreign(maps: Path) -> None:
    write_store(maps.parent / "other", make_rows(17), 6, teacher={"name": "another"})
    shutil.copy(maps.parent / "other" / SHARD, maps / SHARD)


@pytest.mark.parametrize(
    ("damage", "shard", "message"),
    [
        (lambda maps: (maps / SHARD).unlink(), 1, "missing: expected a file; run `tokenmix extract`"),
        (lambda maps: [(maps / SHARD).unlink(), (maps / SHARD).mkdir()][0], 1, "missing: expected a file"),
        (write(SHARD, b""), 1, "expected a complete HDF5 file"),
        (write(SHARD, b"garbage" * 9999), 1, "expected a complete HDF5 file"),
        (cut(100), 1, "expected a complete HDF5 file"),
        (cut(40_000), 1, "expected a complete HDF5 file"),
        (attribute("version", 2), 1, "attribute version: expected 1, found 2"),
        (attribute("version", "1"), 1, "attribute version: expected 1, found '1'"),
        (attribute("format", b"other"), 1, "attribute format: expected 'tokenmix-maps', found 'other'"),
        (attribute("rows", 5), 1, "attribute rows: expected 6, found 5"),
        (attribute("row_start", 0), 1, "attribute row_start: expected 6, found 0"),
        (attribute("shard", None), 1, "attribute shard: expected 1, found None"),
        (attribute("content_digest", np.arange(3)), 1, "attribute content_digest: expected"),
        (lambda maps: shutil.copy(maps / "shard-00000.h5", maps / SHARD), 1, "attribute shard: expected 1, found 0"),
        (foreign, 1, "attribute content_digest: expected"),
        (dataset("label", None), 1, "dataset label: expected int32 .6., found none"),
        (dataset("label", lambda a: a[:5]), 1, r"dataset label: expected int32 \[6\], found int32 \[5\]"),
        (dataset("label", lambda a: a.astype("i8")), 1, r"dataset label: expected int32 \[6\], found int64"),
        (dataset("label_logit", lambda a: a.astype(">f2")), 1, "dataset label_logit: expected float16 .* found >f2"),
        (
            dataset("label_logit", lambda a: a[:, :2]),
            1,
            r"dataset label_logit: expected .*\[6, 3, 5\], found float16 \[6, 2, 5\]",
        ),
        (dataset("digest", None), 1, "dataset digest: expected"),
        (dataset("key", lambda a: a.astype(object)), 1, "dataset key: expected text of at most 4096 bytes"),
        (dataset("key", lambda a: a.astype("S5000")), 1, "dataset key: expected text of at most 4096 bytes"),
        (dataset("error", None), 1, "dataset error: expected"),
        (rewrite("label_logit", np.inf), 1, "label_logit: expected finite"),
        (rewrite("view", [0, 0, 0, 1]), 1, "view: expected x0 < x1"),
        (rewrite("size", [0, 1]), 1, "size: expected width and height"),
        (rewrite("status", 3), 1, "status: expected one of"),
        (rewrite("orientation", 9), 1, "orientation: expected at most 8"),
        (rewrite("label", 11), None, r"list of \(key, label\)"),
        (rewrite("key", b"cat/other.jpg"), None, r"list of \(key, label\)"),
        (rewrite("key", b"\xff\xfe"), 1, "key: expected UTF-8"),
        (swap_rows, None, r"list of \(key, label\): its digest"),
        (write("shard-00001.h5.host.12.tmp", b""), None, "shard-00001.h5.host.12.tmp: left over"),
        (write("shard-00003.h5", b""), None, "shard-00003.h5: expected no shard of this number"),
        (write("notes.txt", b""), None, "notes.txt: expected only"),
    ],
)
def test_one_rule_broken(maps: Path, damage: Callable[[Path], object], shard: int | None, message: str) -> None:
    damage(maps)
    found = [problem for problem in problems(maps) if re.search(message, str(problem))]
    assert [problem.shard for problem in found] == [shard]


def test_all_problems_are_listed(maps: Path) -> None:
    (maps / "shard-00000.h5").unlink()
    (maps / SHARD).write_bytes(b"")
    (maps / "x").touch()
    assert len(problems(maps)) == 3


def test_hidden_files_are_ignored(maps: Path) -> None:
    (maps / ".nfs0001").touch()
    assert problems(maps) == []


def test_a_broken_header_is_an_error(maps: Path) -> None:
    (maps / "store.json").write_text("{")
    with pytest.raises(StoreError, match="expected JSON"):
        verify(maps)


def test_a_problem_is_one_line(maps: Path) -> None:
    raw = bytearray((maps / "shard-00000.h5").read_bytes())
    with h5py.File(maps / "shard-00000.h5") as file:
        raw[file["digest"].id.get_offset() + 8] ^= 1
    (maps / "shard-00000.h5").write_bytes(raw)
    expected = r"shard-00000.h5, row 1, key 'cat/line\nbreak.jpg': digest: the row was changed after it was written"
    assert [str(problem) for problem in problems(maps)] == [expected]
