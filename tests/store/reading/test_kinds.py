"""Kinds beside `label`: what is stored comes back, in the right dtype, and every rule of the format is enforced."""

from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest

from store import Header, MapStore, RowBatch, StoreError, verify
from store.folder.head import Head, write_head
from store.spec import KINDS, shard_name
from tests.store.conftest import dataset_of, make_header, make_rows, renew_checksum, write_store

ROWS, K, GRID = 7, 3, (2, 4)
DEPTHS = {"label": 1, "cam": 1, "activation": 1, "topk": K, "features": 5}
HEAD = Head(np.arange(50, dtype=np.float32).reshape(10, 5), np.arange(10, dtype=np.float32) - 4)
METHODS = {"topk": "read_topk", "features": "read_features"}


def payload_of(kind: str, classes: type = np.uint16) -> dict[str, npt.NDArray[Any]]:
    rng = np.random.default_rng(3)
    logits = rng.standard_normal((ROWS, DEPTHS[kind], *GRID)).astype(np.float16)
    drawn: npt.NDArray[Any] = rng.random((ROWS, 9, *GRID)).argsort(axis=1)[:, :K].astype(classes)
    payload: dict[str, dict[str, npt.NDArray[Any]]] = {
        "label": {"label_logit": logits[:, 0]},
        "cam": {"label_cam": np.abs(logits[:, 0])},
        "activation": {"activation": np.abs(logits[:, 0])},
        "topk": {"topk_logit": -np.sort(-logits, axis=1), "topk_class": drawn, "logsumexp": logits[:, 0] + 9},
        "features": {"features": logits},
    }
    for array in payload[kind].values():
        array[4] = 0  # the fifth row of make_rows is an unreadable image
    return payload[kind]


def batch_of(kind: str, **changed: Any) -> RowBatch:
    return replace(make_rows(ROWS, GRID), payload=payload_of(kind) | changed)


def header_of(kind: str) -> dict[str, Any]:
    return {"kind": kind, "depth": DEPTHS[kind], "grid": GRID, "dtype": "float16"}


def make_store(path: Path, kind: str, **changed: Any) -> MapStore:
    header = write_store(path, batch_of(kind, **changed), 3, **header_of(kind))
    if kind == "features":
        write_head(path, header, HEAD)
    return MapStore(path)


@pytest.mark.parametrize("kind", DEPTHS)
def test_what_is_stored_comes_back(tmp_path: Path, kind: str) -> None:
    store = make_store(tmp_path / "maps", kind)
    assert verify(tmp_path / "maps").problems == ()
    rows = np.array([6, 0, 3, 3])
    found = getattr(store, METHODS.get(kind, "read"))(rows)
    for array, expected in zip(found if kind == "topk" else [found], payload_of(kind).values(), strict=False):
        assert array.dtype == expected.dtype
        assert np.array_equal(array, expected[rows])
    if kind == "topk":
        assert np.array_equal(store.read_logsumexp(rows), payload_of(kind)["logsumexp"][rows])


def test_topk_read_is_the_labels_logit_where_it_is_among_the_k(tmp_path: Path) -> None:
    store = make_store(tmp_path / "maps", "topk")
    logits, classes = store.read_topk(np.arange(ROWS))
    expected = np.zeros((ROWS, *GRID), np.float16)
    for row, k, y, x in np.ndindex(classes.shape):
        if classes[row, k, y, x] == store.labels[row]:
            expected[row, y, x] = logits[row, k, y, x]
    assert np.count_nonzero(expected)
    assert np.count_nonzero(expected == 0)
    assert np.array_equal(store.read(np.arange(ROWS)), expected)


TEACHER_CLASS = (17, 3, 12, 0, 5, 19, 8, 1, 9, 6)  # of 20 outputs


@pytest.mark.parametrize("kind", ["topk", "features"])
def test_a_teacher_with_more_outputs_in_another_order(tmp_path: Path, kind: str) -> None:
    """`label` is the dataset's own class; maps are of the output that the header names for it."""
    batch, weight = batch_of(kind), np.arange(100, dtype=np.float32).reshape(20, 5)
    if kind == "topk":
        outputs = np.array(TEACHER_CLASS, np.uint16)[batch.label]
        classes = batch.payload["topk_class"] + np.uint16(10)
        classes[:, 1] = outputs[:, None, None]
        classes[:, 0] = np.where(classes[:, 0] == classes[:, 1], 2, classes[:, 0])
        classes[:, 2] = np.where(classes[:, 2] == classes[:, 1], 2, classes[:, 2])
        batch.payload["topk_class"][:] = classes
        batch.payload["topk_class"][4] = 0
    fields = {"teacher": {"classes": 20}, "dataset": dataset_of(batch, TEACHER_CLASS)}
    header = write_store(tmp_path / "maps", batch, 3, **header_of(kind) | fields)
    if kind == "features":
        write_head(tmp_path / "maps", header, Head(weight, np.arange(20, dtype=np.float32)))
    assert verify(tmp_path / "maps").ok
    store, rows = MapStore(tmp_path / "maps"), np.arange(ROWS)
    assert header.outputs == 20
    assert header.teacher_class.tolist() == list(TEACHER_CLASS)
    assert np.array_equal(store.labels, batch.label)
    if kind == "topk":
        expected = batch.payload["topk_logit"][:, 1]
    else:
        mapped = np.array(TEACHER_CLASS)[batch.label]
        features = batch.payload["features"].astype(np.float32)
        expected = np.einsum("bchw,bc->bhw", features, weight[mapped]) + mapped[:, None, None]
        expected[4] = 0
    np.testing.assert_allclose(store.read(rows), expected, rtol=2**-10)


@pytest.mark.parametrize("kind", ["topk", "features"])
@pytest.mark.parametrize("label", [-1, 10])
def test_a_label_that_is_no_class_of_the_dataset(tmp_path: Path, kind: str, label: int) -> None:
    batch = batch_of(kind)
    batch.label[2] = label
    with pytest.raises(StoreError, match="row 2 of the batch.*label: expected a class of the dataset"):
        write_store(tmp_path / "refused", batch, ROWS, **header_of(kind))
    make_store(tmp_path / "maps", kind)
    with h5py.File(tmp_path / "maps" / shard_name(0), "r+") as shard:
        shard["label"][2] = label
    assert any("label: expected a class" in problem.message for problem in verify(tmp_path / "maps").problems)
    with pytest.raises(StoreError, match=f"row 2: expected a label below 10, found {label}"):
        MapStore(tmp_path / "maps", check=False).read([0, 2])


@pytest.mark.parametrize(("classes", "dtype"), [(65_536, "uint16"), (65_537, "int32")])
def test_class_numbers_of_any_size(tmp_path: Path, classes: int, dtype: str) -> None:
    batch = batch_of("topk", topk_class=payload_of("topk")["topk_class"].astype(dtype))
    batch.payload["topk_class"][0, 0] = classes - 1
    write_store(tmp_path / "maps", batch, 3, **header_of("topk"), teacher={"classes": classes})
    found = MapStore(tmp_path / "maps").read_topk([0])[1][0, 0]
    assert found.dtype == dtype
    assert (found == classes - 1).all()


@pytest.mark.parametrize(
    ("kind", "method", "expected"),
    [
        ("label", "read_topk", "topk"),
        ("label", "read_logsumexp", "topk"),
        ("topk", "read_features", "features"),
        ("label", "head", "features"),
    ],
)
def test_a_method_of_another_kind_is_refused(tmp_path: Path, kind: str, method: str, expected: str) -> None:
    store = make_store(tmp_path / "maps", kind)
    with pytest.raises(StoreError, match=f"{method}: expected kind {expected}, found {kind}"):
        attrgetter(method)(store)([0])


@pytest.mark.parametrize(
    ("kind", "name", "value", "rule"),
    [
        ("cam", "label_cam", -1, "expected no negative number"),
        ("activation", "activation", -1, "expected no negative number"),
        ("topk", "topk_logit", 99, "expected the largest first"),
        ("topk", "topk_class", payload_of("topk")["topk_class"][1, 0, -1, -1], "expected every class once"),
        ("topk", "topk_class", 10, "expected outputs of the teacher, below 10"),
        ("topk", "logsumexp", np.inf, "expected finite numbers"),
    ],
)
def test_rules_hold_for_writers_and_verify(tmp_path: Path, kind: str, name: str, value: float, rule: str) -> None:
    array = payload_of(kind)[name]
    array[1].reshape(-1)[-1] = value
    with pytest.raises(StoreError, match=f"{name}: {rule}"):
        make_store(tmp_path / "refused", kind, **{name: array})
    make_store(tmp_path / "maps", kind)
    with h5py.File(tmp_path / "maps" / shard_name(0), "r+") as shard:
        shard[name][1] = array[1]
    assert any(rule in problem.message for problem in verify(tmp_path / "maps").problems)


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_a_kind_of_one_plane_needs_a_line_in_kinds_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    monkeypatch.setitem(KINDS, "depth_map", (("distance", "hw"),))
    maps = payload_of("activation")["activation"].astype("float16" if dtype == "float16" else "float32")
    batch = replace(make_rows(ROWS, GRID), payload={"distance": maps})
    write_store(tmp_path / "maps", batch, 3, kind="depth_map", grid=GRID, dtype=dtype)
    assert verify(tmp_path / "maps").problems == ()
    found = MapStore(tmp_path / "maps").read([6, 0, 3])
    np.testing.assert_allclose(found, maps[[6, 0, 3]], atol=0 if dtype == "float16" else maps.max() / 255)
    with pytest.raises(StoreError, match="read_topk: expected kind topk, found depth_map"):
        MapStore(tmp_path / "maps").read_topk([0])


def test_a_kind_of_several_planes_is_not_read_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "pair", (("left", "hw"), ("right", "hw")))
    maps = payload_of("activation")["activation"]
    batch = replace(make_rows(ROWS, GRID), payload={"left": maps, "right": maps})
    write_store(tmp_path / "maps", batch, 3, kind="pair", grid=GRID)
    assert verify(tmp_path / "maps").problems == ()
    with pytest.raises(StoreError, match="read: expected kind label or cam or activation, found pair"):
        MapStore(tmp_path / "maps").read([0])
    with pytest.raises(StoreError, match="dtype: expected float16 or float32 for kind pair"):
        make_header(batch, 3, kind="pair", grid=GRID, dtype="uint8")


def test_depth_belongs_to_topk_and_features() -> None:
    with pytest.raises(StoreError, match="depth: expected 1 for kind label"):
        Header(
            "label",
            {},
            {},
            GRID,
            "float16",
            1,
            1,
            {"root_name": "", "class_names": [], "teacher_class": [], "digest": ""},
            {},
            5,
        )


def test_features_read_is_the_labels_logit_by_the_head(tmp_path: Path) -> None:
    store = make_store(tmp_path / "maps", "features")
    for row in range(ROWS):
        weight, bias = store.head.weight[store.labels[row]], store.head.bias[store.labels[row]]
        expected = np.tensordot(weight, payload_of("features")["features"][row].astype(np.float32), 1) + bias
        expected = expected * (store.statuses[row] == 0)
        np.testing.assert_allclose(store.read([row])[0], expected, rtol=2**-10)


def test_a_head_of_another_store_is_found(tmp_path: Path) -> None:
    make_store(tmp_path / "maps", "features")
    with h5py.File(tmp_path / "maps" / "head.h5", "r+") as file:
        file.attrs["content_digest"] = np.bytes_("0" * 64)
    assert ["checksum" in problem.message for problem in verify(tmp_path / "maps").problems] == [True]
    renew_checksum(tmp_path / "maps" / "head.h5")
    assert [problem.message for problem in verify(tmp_path / "maps").problems if "another head" in problem.message]
    with pytest.raises(StoreError, match="another head; remove this file"):
        _ = MapStore(tmp_path / "maps").head
