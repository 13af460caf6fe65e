"""dtype uint8: how far off a map may be, what comes back exactly, and what is refused."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from store import MapStore, RowBatch, StoreError, verify
from store.format.quantise import dequantise, quantise
from store.spec import shard_name
from tests.store.conftest import make_header, make_rows, write_store

Maps = npt.NDArray[np.float32]
FLOATS = st.floats(-65504, 65504, width=32)


def rows_of(maps: Maps, name: str = "label_logit") -> RowBatch:
    """These maps with other columns of some readable rows."""
    columns = make_rows(len(maps), maps.shape[1:])
    return replace(columns, payload={name: maps}, status=np.zeros(len(maps), np.uint8), error=[""] * len(maps))


@given(maps=arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)), elements=FLOATS))
def test_no_value_is_off_by_more_than_half_a_step(maps: Maps) -> None:
    steps, scale_offset = quantise(maps)
    back = dequantise(steps, scale_offset)
    scale = scale_offset[:, 0].astype(np.float64)
    largest = np.abs(maps).max(axis=(1, 2))
    wrong = np.abs(back.astype(np.float64) - maps).max(axis=(1, 2))
    assert (wrong <= scale / 2 + largest * 2.0**-22).all()  # and the rounding of float32
    spread = np.ptp(maps.astype(np.float64), axis=(1, 2))
    smallest_float16 = 2.0**-24
    assert (scale <= (spread + largest * 2.0**-10) / 255 * (1 + 2.0**-10) + 1.01 * smallest_float16).all()


@given(maps=arrays(np.float32, (2, 3, 3), elements=st.floats(0, 65504, width=32)))
def test_what_is_never_negative_stays_so(maps: Maps) -> None:
    steps, scale_offset = quantise(maps)
    assert (dequantise(steps, scale_offset) >= 0).all()
    assert not np.signbit(scale_offset).any()


@pytest.mark.parametrize("value", [0, -0.0, 1, -3.5, 2**-24, 65504, -65504])
def test_a_constant_map_of_a_float16_number_comes_back_as_it_was(value: float) -> None:
    maps = np.full((1, 2, 3), value, np.float32)
    np.testing.assert_array_equal(dequantise(*quantise(maps)), maps)


def test_an_outlier_costs_its_own_map_only() -> None:
    maps = np.ones((2, 4, 4), np.float32) * np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
    maps[0, 0, 0] = 60_000
    wrong = np.abs(dequantise(*quantise(maps)) - maps).max(axis=(1, 2))
    assert wrong[0] > 0.5
    assert wrong[1] < 0.5 / 255 * 1.01


@settings(max_examples=15)
@given(
    maps=arrays(np.float32, st.tuples(st.integers(5, 9), st.just(3), st.just(4)), elements=st.floats(0, 99, width=32)),
    kind=st.sampled_from(["label_logit", "label_cam", "activation"]),
)
def test_round_trip(maps: Maps, kind: str) -> None:
    expected = dequantise(*quantise(maps))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "maps"
        changes: dict[str, Any] = {"kind": {"label_logit": "label", "label_cam": "cam"}.get(kind, kind)}
        write_store(path, rows_of(maps, kind), 3, dtype="uint8", **changes)
        assert verify(path).problems == ()
        store = MapStore(path)
        chosen = np.array([4, 0, 3, 3])
        np.testing.assert_array_equal(store.read(chosen), expected[chosen], strict=True)
        assert store.read([]).shape == (0, 3, 4)


def test_half_the_bytes(tmp_path: Path) -> None:
    maps = np.random.default_rng(0).standard_normal((64, 18, 18), np.float32)
    header = write_store(tmp_path, rows_of(maps), 64, dtype="uint8")
    assert [(field.name, field.dtype.str, field.shape) for field in header.payload] == [
        ("label_logit", "|u1", (18, 18)),
        ("scale_offset", "<f2", (2,)),
    ]
    with h5py.File(tmp_path / shard_name(0)) as file:
        stored = [file[field.name].id for field in header.payload]
        assert sum(dataset.get_storage_size() for dataset in stored) == 64 * 328
        assert [dataset.get_offset() % 4096 for dataset in stored] == [0, 0]


def test_an_unreadable_row_is_zero(tmp_path: Path) -> None:
    batch = make_rows(6, dtype="float32")
    write_store(tmp_path, batch, 6, dtype="uint8")
    assert not MapStore(tmp_path).read([4]).any()
    with h5py.File(tmp_path / shard_name(0), "r+") as file:
        file["scale_offset"][4] = (0, 1)
    assert any("expected zeros" in problem.message for problem in verify(tmp_path).problems)


@pytest.mark.parametrize("kind", ["topk", "features"])
def test_kinds_of_many_planes_are_refused(kind: str) -> None:
    with pytest.raises(StoreError, match=f"dtype: expected float16 or float32 for kind {kind}, found 'uint8'"):
        make_header(make_rows(3), 3, kind=kind, dtype="uint8")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -7e4])
def test_maps_that_cannot_be_stored(tmp_path: Path, value: float) -> None:
    maps = np.ones((6, 2, 2), np.float32)
    maps[1, 1, 1] = value
    with pytest.raises(StoreError, match="row 1 .*scale_offset: expected finite numbers"):
        write_store(tmp_path, rows_of(maps), 6, dtype="uint8")


def test_only_float32_is_taken(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="label_logit: expected float32"):
        write_store(tmp_path, make_rows(6), 6, dtype="uint8")


@pytest.mark.parametrize(("kind", "name", "value"), [("label", "label_logit", (-1, 0)), ("cam", "label_cam", (1, -1))])
def test_negative_where_it_cannot_be(tmp_path: Path, kind: str, name: str, value: tuple[float, float]) -> None:
    write_store(tmp_path, rows_of(np.ones((6, 2, 2), np.float32), name), 6, dtype="uint8", kind=kind)
    with h5py.File(tmp_path / shard_name(0), "r+") as file:
        file["scale_offset"][2] = value
    found = [(p.row, p.message) for p in verify(tmp_path).problems]
    assert (2, "scale_offset: expected no negative number") in found
    with h5py.File(tmp_path / shard_name(0), "r+") as file:
        file["scale_offset"][2] = (1, -1)
    assert len(verify(tmp_path).problems) == (1 if kind == "label" else 2)
