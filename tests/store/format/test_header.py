"""store.json: what it says, what is refused, and who wins when two make it at once."""

import errno
import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from store import Header, RowBatch, StoreError, StoreMismatch, create_store, read_header
from store.format.rows import list_digest
from tests.store.conftest import CLASS_NAMES, make_header, make_rows

HEADER = make_header(make_rows(17), 6)


def test_round_trip(tmp_path: Path) -> None:
    create_store(tmp_path / "maps", HEADER)
    assert read_header(tmp_path / "maps") == HEADER
    assert [file.name for file in (tmp_path / "maps").iterdir()] == ["store.json"]


def test_without_optional_columns_it_is_what_it_was_before_there_were_any(tmp_path: Path) -> None:
    header = replace(HEADER, columns=())
    assert header.content_digest == "1448fc0ef728a28f99ce3b598a8d472b39a555284bdd4ff50761e1dbe9cdac01"
    assert "columns" not in json.loads(header.to_json())
    create_store(tmp_path, header)
    assert read_header(tmp_path) == header
    with pytest.raises(StoreMismatch, match=r"columns: stored '\(absent\)', given \['orientation', 'fingerprint'\]"):
        create_store(tmp_path, HEADER)


@pytest.mark.parametrize("columns", [("orientation",), ("fingerprint",), ["orientation", "fingerprint"]])
def test_some_optional_columns(tmp_path: Path, columns: Any) -> None:
    header = replace(HEADER, columns=columns)
    create_store(tmp_path, header)
    assert [field.name for field in read_header(tmp_path).optional] == list(columns)
    assert replace(header, earlier=((5, "digest"),)).before(0).columns == tuple(columns)
    assert len({replace(HEADER, columns=these).content_digest for these in ((), columns)}) == 2


def test_another_machine_resumes(tmp_path: Path) -> None:
    create_store(tmp_path, HEADER)
    create_store(tmp_path, replace(HEADER, versions={"h5py": "4"}, dataset={**HEADER.dataset, "root_name": "zoo"}))
    assert read_header(tmp_path) == HEADER


@pytest.mark.parametrize(
    ("field", "changes", "stored", "given"),
    [
        ("rows", {"rows": 18}, "17", "18"),
        ("grid", {"grid": (5, 3)}, "[3, 5]", "[5, 3]"),
        ("dtype", {"dtype": "float32"}, "'float16'", "'float32'"),
        ("teacher.name", {"teacher": {**HEADER.teacher, "name": "x"}}, "'resnet26'", "'x'"),
        ("teacher.parameters", {"teacher": {**HEADER.teacher, "parameters": 16e6}}, "16000000", "16000000.0"),
        ("preprocessing.crop", {"preprocessing": {**HEADER.preprocessing, "crop": 1}}, "'(absent)'", "1"),
        (
            "dataset.teacher_class",
            {"dataset": {**HEADER.dataset, "teacher_class": [*range(9, -1, -1)]}},
            f"{[*range(10)]}",
            "[9,",
        ),
        (
            "dataset.class_names",
            {"dataset": {**HEADER.dataset, "class_names": ["x"] * 10}},
            str(CLASS_NAMES),
            "['x', 'x'",
        ),
    ],
)
def test_another_configuration(tmp_path: Path, field: str, changes: dict[str, Any], stored: str, given: str) -> None:
    create_store(tmp_path, HEADER)
    with pytest.raises(StoreMismatch) as caught:
        create_store(tmp_path, replace(HEADER, **changes))
    lines = str(caught.value).splitlines()
    assert [line for line in lines if line.startswith("  ")] == [lines[1]]
    assert lines[1].startswith(f"  {field}: stored {stored}, given {given}")
    assert len(lines[1]) < 300


def teacher_class(outputs: list[Any], **changes: Any) -> dict[str, Any]:
    return {"dataset": {**HEADER.dataset, "teacher_class": outputs}, **changes}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in HEADER.dataset.items() if key != name}


def test_maps_without_classes_need_no_teacher_class() -> None:
    header = replace(HEADER, kind="activation", teacher={}, **teacher_class([]))
    assert (header.outputs, header.teacher_class.tolist()) == (0, [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "logit"}, "kind: expected one of label, cam, activation, topk, features, found 'logit'"),
        ({"dtype": "float64"}, "dtype: expected one of float16, float32"),
        ({"rows": 0}, "rows: expected a whole number >= 1, found 0"),
        ({"shard_rows": True}, "shard_rows: expected a whole number"),
        ({"grid": (18,)}, "grid: expected two integers"),
        ({"grid": (18, 1.5)}, "grid: expected a whole number"),
        ({"teacher": ["x"]}, "teacher: expected a mapping"),
        ({"teacher": {"std": float("nan")}}, "teacher: expected finite JSON"),
        ({"teacher": {"path": Path("x")}}, "teacher: expected finite JSON"),
        ({"teacher": {"name": "\udcff"}}, "teacher: expected finite JSON"),
        ({"dataset": {"root_name": "x"}}, "dataset.class_names: expected a list"),
        ({"dataset": without("teacher_class")}, "dataset.teacher_class: expected a list, found '.absent.'"),
        (teacher_class([*range(9)]), "dataset.teacher_class: expected one output .* each of 10 classes"),
        (teacher_class([]), "dataset.teacher_class: expected one output"),
        (teacher_class([*range(9)], kind="activation"), "dataset.teacher_class: expected one output"),
        (teacher_class([*range(9), 10]), "dataset.teacher_class: expected outputs .* from 0 to 9"),
        (teacher_class([*range(9), -1]), "dataset.teacher_class: expected outputs"),
        (teacher_class([*range(9), 1.0]), "dataset.teacher_class: expected outputs"),
        (teacher_class([*range(9), True]), "dataset.teacher_class: expected outputs"),
        (teacher_class([*range(9), 1 << 31], teacher={}), "dataset.teacher_class: expected outputs"),
        ({"teacher": {"classes": -1}}, "teacher.classes: expected .* >= 0 for kind label, found -1"),
        ({"teacher": {"classes": 10.0}}, "teacher.classes: expected"),
        ({"teacher": {"classes": 1 << 32}}, "teacher.classes: expected"),
        ({"teacher": {}, "kind": "topk"}, "teacher.classes: expected .* >= 1 for kind topk, found '.absent.'"),
        ({"teacher": {"classes": 0}, "kind": "features"}, "teacher.classes: expected .* >= 1 for kind features"),
        ({"columns": ["fingerprint", "orientation"]}, "columns: expected some of .*, in this order, found"),
        ({"columns": ["orientation", "orientation"]}, "columns: expected some of"),
        ({"columns": ["orientation", "colour"]}, "columns: expected .* a newer version of this library may know it"),
        ({"columns": "orientation"}, "columns: expected some of"),
    ],
)
def test_fields_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StoreError, match=message):
        replace(HEADER, **changes)


def edit(**changes: Any) -> Callable[[str], str]:
    return lambda text: json.dumps({**json.loads(text), **changes})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:-9], "expected JSON"),
        (lambda _: "[]", "not a store"),
        (lambda _: "[" * 100_000, "expected JSON"),
        (edit(format="other"), "not a store"),
        (edit(version=2), "version: expected 1, found 2; a newer version"),
        (edit(version="1"), "version: expected 1"),
        (edit(version=True), "version: expected 1, found True"),
        (edit(extra=1), "fields: expected .* newer version's"),
        (edit(columns=[]), "fields: expected"),
        (edit(columns=["orientation"]), "content_digest: expected"),
        (edit(columns=3), "columns: expected some of"),
        (lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "rows"}), "fields: expected"),
        (edit(rows="17"), "rows: expected a whole number"),
        (edit(rows=18), "content_digest: expected .* it was edited"),
        (edit(teacher={"name": "resnet101"}), "content_digest"),
        (lambda text: text.replace("16000000", "NaN"), "expected JSON, found the number NaN"),
    ],
)
def test_damaged(tmp_path: Path, damage: Callable[[str], str], message: str) -> None:
    create_store(tmp_path, HEADER)
    file = tmp_path / "store.json"
    file.write_text(damage(file.read_text("utf-8")), "utf-8")
    with pytest.raises(StoreError, match=message) as caught:
        read_header(tmp_path)
    assert str(caught.value).startswith(str(file))


def test_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "store.json").write_bytes(b"\xff\xfe")
    with pytest.raises(StoreError, match="expected UTF-8"):
        read_header(tmp_path)


@pytest.mark.parametrize("path", ["", "file", "file/below", "absent"])
def test_reading_what_is_no_store(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"not a store: expected store\.json"):
        read_header(tmp_path / path)


@pytest.mark.parametrize("path", ["", "file", "file/below"])
def test_nothing_of_others_becomes_a_store(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(StoreError, match="not a store"):
        create_store(tmp_path / path, HEADER)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_file_systems_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    create_store(tmp_path, HEADER)
    assert read_header(tmp_path) == HEADER
    assert [file.name for file in tmp_path.iterdir()] == ["store.json"]


def create_as(path: Path, rows: int, start: Any, results: Any) -> None:
    start.wait()
    try:
        create_store(path, replace(HEADER, rows=rows))
        results.put(rows)
    except StoreMismatch:
        results.put(None)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_of_creators_at_once_one_wins(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    for round_ in range(5):
        start, results = fork.Event(), fork.Queue()
        path = tmp_path / str(round_) / "maps"
        creators = [fork.Process(target=create_as, args=(path, rows, start, results)) for rows in (1, 2, 3, 4)]
        for creator in creators:
            creator.start()
        start.set()
        winners = [rows for rows in [results.get(timeout=20) for _ in creators] if rows is not None]
        for creator in creators:
            creator.join()
        assert winners == [read_header(path).rows]
        assert [file.name for file in path.iterdir()] == ["store.json"]


def test_list_digest_sees_order_labels_and_borders() -> None:
    lists = [
        (["a", "b"], [1, 2]),
        (["b", "a"], [1, 2]),
        (["a", "b"], [2, 1]),
        (["ab"], [1]),
        (["a", "b", "c"], [1, 2, 3]),
    ]
    assert len({list_digest(keys, labels) for keys, labels in lists}) == len(lists)


def test_list_digest_is_what_the_page_says(rows: RowBatch) -> None:
    parts = [
        k.encode() + b"\0" + int(i).to_bytes(4, "little", signed=True)
        for k, i in zip(rows.key, rows.label, strict=True)
    ]
    assert list_digest(rows.key, rows.label) == hashlib.sha256(b"".join(parts)).hexdigest()


@pytest.mark.parametrize(
    ("keys", "labels", "message"),
    [
        (["a", "b", "a"], [1, 2, 3], "every key once, found 'a'"),
        (["a"], [1, 2], "as many keys as labels"),
        (["a\0"], [1], "without NUL"),
        ([""], [1], "1 to 4096 bytes"),
        (["a\udcff"], [1], "UTF-8"),
    ],
)
def test_lists_that_cannot_be(keys: list[str], labels: list[int], message: str) -> None:
    with pytest.raises(StoreError, match=message):
        list_digest(keys, labels)


def test_a_header_is_not_changed_through_its_source() -> None:
    teacher: dict[str, Any] = {"name": "a"}
    header = Header(**{**{f: getattr(HEADER, f) for f in HEADER.__dataclass_fields__}, "teacher": teacher})
    before = header.content_digest
    teacher["name"] = "b"
    assert replace(header).content_digest == before
