"""MapStore: gives back what was written, by any way of storing, in any process."""

import multiprocessing
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store import MapStore, RowBatch, ShardError, StoreError, verify
from store.format.sharding import Sharding
from store.reading import mapped
from store.reading.mapped import MappedRows
from store.reading.row_readers import IndexedRows
from store.spec import STATUS_OK, Field
from tests.store.conftest import make_rows, renew_checksum, write_store

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)


@st.composite
def batches(draw: st.DrawFn) -> RowBatch:
    """Rows with any texts, any finite numbers and any statuses."""
    n = draw(st.integers(1, 12))
    grid = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    base = make_rows(n, grid, draw(st.sampled_from(["float16", "float32"])), seed=draw(st.integers(0, 99)))
    keys = draw(st.lists(TEXT.filter(bool), min_size=n, max_size=n, unique=True))
    bad = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    maps = np.where(bad[:, None, None], 0, base.payload["label_logit"]).astype(base.payload["label_logit"].dtype)
    errors = [draw(TEXT.filter(bool)) if row else "" for row in bad]
    return replace(base, payload={"label_logit": maps}, status=bad.astype(np.uint8), key=keys, error=errors)


@settings(max_examples=25)
@given(batch=batches(), shard_rows=st.integers(1, 13))
def test_round_trip(batch: RowBatch, shard_rows: int) -> None:
    with TemporaryDirectory() as folder:
        header = write_store(Path(folder) / "maps", batch, shard_rows)
        maps = MapStore(Path(folder) / "maps")
        rows = np.arange(len(batch.key))
        assert (len(maps), maps.header, maps.grid, maps.kind) == (len(rows), header, header.grid, "label")
        assert maps.read(rows).dtype == np.dtype(header.dtype)
        np.testing.assert_array_equal(maps.read(rows), batch.payload["label_logit"])
        np.testing.assert_array_equal(maps.views(rows), batch.view)
        for ours, given_ in (
            ("labels", "label"),
            ("predictions", "prediction"),
            ("sizes", "size"),
            ("statuses", "status"),
            ("orientations", "orientation"),
            ("fingerprints", "fingerprint"),
        ):
            np.testing.assert_array_equal(getattr(maps, ours), getattr(batch, given_), strict=True)
        assert list(maps.keys) == batch.key
        assert maps.errors == {row: text for row, text in enumerate(batch.error) if text}
        assert verify(Path(folder) / "maps").problems == ()


def test_columns_that_it_does_not_have_are_unknown(tmp_path: Path, rows: RowBatch) -> None:
    write_store(tmp_path, rows, 6, columns=("fingerprint",))
    assert verify(tmp_path).problems == ()
    maps = MapStore(tmp_path)
    np.testing.assert_array_equal(maps.orientations, np.zeros(17, np.uint8), strict=True)
    np.testing.assert_array_equal(maps.fingerprints, rows.fingerprint, strict=True)
    with h5py.File(tmp_path / "shard-00000.h5") as shard:
        assert "orientation" not in shard


@pytest.mark.parametrize("chosen", [[16, 0, 3, 3], (5, 6), np.array([12], "u8"), np.array([], "i4"), [], range(17)])
def test_any_rows(maps: Path, rows: RowBatch, chosen: Any) -> None:
    wanted = rows.payload["label_logit"][np.asarray(chosen, dtype=np.int64)]
    np.testing.assert_array_equal(MapStore(maps).read(chosen), wanted, strict=True)


@pytest.mark.parametrize(
    "chosen", [[-1], [17], [0, 2**40], [1.0], [True], [[1]], 3, ["1"], np.array([2**64 - 1], "u8")]
)
@pytest.mark.parametrize("method", ["read", "views"])
def test_no_such_rows(maps: Path, chosen: Any, method: str) -> None:
    with pytest.raises(IndexError, match=r"expected (0 <= row < 17|whole numbers \[B\])"):
        getattr(MapStore(maps), method)(chosen)


def test_what_is_read_belongs_to_the_reader(maps: Path) -> None:
    store = MapStore(maps)
    for found in (store.read([3]), store.views([3])):
        found[:] = 9
    assert verify(maps).ok
    assert not (store.read([3]) == 9).any()


def test_keys_are_a_sequence(maps: Path, rows: RowBatch) -> None:
    keys = MapStore(maps).keys
    assert (len(keys), keys[2], keys[-1]) == (17, rows.key[2], rows.key[16])
    assert list(keys[1:9:3]) == rows.key[1:9:3]
    assert rows.key[3] in keys
    assert keys.index(rows.key[16]) == 16


def test_opening_reads_no_columns(maps: Path) -> None:
    store = MapStore(maps)
    store.read([0])
    assert not {"keys", "labels", "errors"} & vars(store).keys()


def recreate(maps: Path, change: Callable[[h5py.File, str, Any], None]) -> None:
    """Write every dataset of every shard anew, as another writer might."""
    for shard in maps.glob("shard-*.h5"):
        with h5py.File(shard) as file:
            columns, attributes = {name: file[name][()] for name in file}, dict(file.attrs)
            types = {name: file[name].dtype for name in file}
        with h5py.File(shard, "w") as file:
            for name, values in columns.items():
                change(file, name, values.astype(types[name]))
            file.attrs.update(attributes)
        renew_checksum(shard)


def compressed(file: h5py.File, name: str, values: Any) -> None:
    file.create_dataset(name, data=values, chunks=(2, *values.shape[1:]), compression="gzip", shuffle=True)


def chunked(file: h5py.File, name: str, values: Any) -> None:
    file.create_dataset(name, data=values, chunks=(1, *values.shape[1:]))


def contiguous(file: h5py.File, name: str, values: Any) -> None:
    file.create_dataset(name, data=values)


@pytest.mark.parametrize(
    ("change", "reader"), [(compressed, IndexedRows), (chunked, IndexedRows), (contiguous, MappedRows)]
)
def test_shards_of_other_writers(
    maps: Path, rows: RowBatch, change: Callable[[h5py.File, str, Any], None], reader: type
) -> None:
    recreate(maps, change)
    store = MapStore(maps, preload=True)
    assert type(store._rows["label_logit"]) is reader
    wanted = np.array([16, 0, 7, 7, 3, 12, 11])
    np.testing.assert_array_equal(store.read(wanted), rows.payload["label_logit"][wanted], strict=True)
    np.testing.assert_array_equal(store.views(wanted), rows.view[wanted], strict=True)
    with pytest.raises(IndexError, match="expected 0 <= row < 17"):
        store.read([-1])
    assert store.read([]).shape == (0, 3, 5)
    assert verify(maps).ok


def test_a_store_that_exceeds_memory(maps: Path, rows: RowBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 10, "SC_PAGE_SIZE": 4096}.__getitem__)
    store = MapStore(maps)
    np.testing.assert_array_equal(store.read(range(17)), rows.payload["label_logit"])
    if Path("/proc/self/smaps").exists():  # "rr": advised to be read at random
        entries = Path("/proc/self/smaps").read_text("utf-8").split("VmFlags:")
        flags = [after.split("\n")[0] for before, after in pairwise(entries) if str(maps) in before]
        assert flags
        assert all(" rr" in flag for flag in flags)


def test_batches_are_announced_while_the_disk_is_waited_for(maps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = MapStore(maps)._rows["label_logit"]
    assert isinstance(reader, MappedRows)
    disk = {"cold": True, "faults": 0}

    def announce(_: object) -> None:
        announced.append(True)

    def major_faults() -> int:
        disk["faults"] += disk["cold"]
        return int(disk["faults"])

    monkeypatch.setattr(reader, "_announce", announce)
    monkeypatch.setattr(mapped, "_major_faults", major_faults)

    def announced_of(batches: int) -> int:
        announced.clear()
        for _ in range(batches):
            reader.take(np.arange(3))
        return len(announced)

    announced: list[bool] = []
    assert announced_of(8 + 1 + 16 + 1 + 32 + 1) == 8 + 16 + 32  # each trial has to wait
    assert announced_of(10_000) > 9_980
    disk["cold"] = False
    announced_of(1025)
    assert announced_of(1000) == 0
    disk["cold"] = True
    assert announced_of(1 + 16 + 1) == 16


def test_one_compressed_shard_among_mapped_ones(maps: Path, rows: RowBatch) -> None:
    kept = (maps / "shard-00000.h5").read_bytes()
    recreate(maps, compressed)
    (maps / "shard-00000.h5").write_bytes(kept)
    np.testing.assert_array_equal(MapStore(maps).read(range(17)), rows.payload["label_logit"])


@given(
    data=st.data(),
    row_shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    sharding=st.builds(Sharding, rows=st.integers(1, 40), shard_rows=st.integers(1, 41)),
)
def test_mapping_at_any_offset_with_any_page(
    data: st.DataObject, row_shape: tuple[int, int], sharding: Sharding
) -> None:
    """Pages of 64 KiB exist; pages of this machine divide them, so their rules hold here too."""
    field = Field("label_logit", np.dtype("<f2"), row_shape)
    wanted = np.random.default_rng(0).integers(0, 999, (sharding.rows, *row_shape)).astype("<f2")
    row_nbytes = wanted[0].nbytes
    step = np.gcd(row_nbytes, 65536)
    with TemporaryDirectory() as folder:
        paths, offsets = [], []
        for shard in range(sharding.shards):
            paths.append(Path(folder) / str(shard))
            offsets.append(int(step * data.draw(st.integers(0, 200_000 // step))))
            start, stop = sharding.bounds(shard)
            paths[-1].write_bytes(bytes(offsets[-1]) + wanted[start:stop].tobytes())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mapped, "_PAGE_NBYTES", 65536)
            reader = MappedRows(paths, offsets, sharding, field)
        np.testing.assert_array_equal(reader.take(np.arange(sharding.rows)), wanted)


def test_missing_shards(maps: Path) -> None:
    for shard in (0, 2):
        (maps / f"shard-0000{shard}.h5").unlink()
    with pytest.raises(ShardError, match=r"expected 3 shards, found 1; 2 missing: 0, 2; run `tokenmix extract`"):
        MapStore(maps)


def test_an_unfinished_store_gives_what_is_there(maps: Path, rows: RowBatch) -> None:
    """Rows whose shard is missing have no label, prediction or status that could be taken for one, and no map."""
    (maps / "shard-00001.h5").unlink()
    store = MapStore(maps, unfinished=True)
    there = np.flatnonzero(store.finished)
    begin, end = store.header.sharding.bounds(1)
    assert there.tolist() == [*range(begin), *range(end, 17)]
    np.testing.assert_array_equal(store.read(there), rows.payload["label_logit"][there])
    np.testing.assert_array_equal(store.views(there), rows.view[there])
    assert [store.keys[row] for row in there.tolist()] == [rows.key[row] for row in there.tolist()]
    for column, nothing in ((store.labels, -1), (store.predictions, -1), (store.statuses, 255)):
        assert set(column[begin:end].tolist()) == {nothing}
    assert [*store.errors] == [4]
    with pytest.raises(ShardError, match="shard-00001.h5"):
        store.read([begin])
    again = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(again.finished, store.finished)


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not a store"):
        MapStore(tmp_path)


@pytest.mark.parametrize("shard", [b"", b"garbage" * 999])
def test_torn_shards(maps: Path, shard: bytes) -> None:
    (maps / "shard-00001.h5").write_bytes(shard)
    with pytest.raises(ShardError, match=r"shard-00001\.h5: expected a complete HDF5 file.*extract"):
        MapStore(maps)


def test_a_torn_shard_is_not_mapped(maps: Path) -> None:
    shard = maps / "shard-00001.h5"
    os.truncate(shard, shard.stat().st_size - 17)
    with pytest.raises(ShardError, match=r"shard-00001\.h5: expected a complete HDF5 file"):
        MapStore(maps)


def test_foreign_and_renamed_shards(tmp_path: Path, maps: Path, rows: RowBatch) -> None:
    write_store(tmp_path / "other", rows, 6, teacher={"name": "another"})
    other = (tmp_path / "other" / "shard-00001.h5").read_bytes()
    for content, message in [
        (other, "attribute content_digest: expected"),
        ((maps / "shard-00000.h5").read_bytes(), "attribute shard: expected 1, found 0"),
    ]:
        (maps / "shard-00001.h5").write_bytes(content)
        with pytest.raises(ShardError, match=message):
            MapStore(maps)


def read_all(store: MapStore, results: Any) -> None:
    results.put((store.read(range(17)), list(store.keys), os.getpid()))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_in_worker_processes(maps: Path, rows: RowBatch, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(maps.parent)
    store = MapStore("maps", preload=True)
    store.read([0])
    monkeypatch.chdir(Path(__file__).parents[3])
    context: Any = multiprocessing.get_context(method)
    results = context.Queue()
    worker = context.Process(target=read_all, args=(store, results))
    worker.start()
    found, keys, pid = results.get(timeout=30)
    worker.join()
    np.testing.assert_array_equal(found, rows.payload["label_logit"])
    assert keys == rows.key
    assert pid != os.getpid()


def test_it_pickles_as_a_path(maps: Path) -> None:
    store = MapStore(maps, preload=True)
    assert len(store.keys) == 17  # loaded, and still not part of it
    pickled = pickle.dumps(store)
    assert len(pickled) < 300 + len(str(maps))
    again = pickle.loads(pickled)
    np.testing.assert_array_equal(again.read([5]), store.read([5]))
    assert str(again) == str(store) == str(maps)
    assert repr(again) == repr(store) == f"MapStore({str(maps)!r}: 17 x label (3, 5))"


def anonymous_bytes() -> int:
    """Memory that no file stands behind, so no other process can share it and the system cannot drop it."""
    lines = Path("/proc/self/smaps_rollup").read_text("ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux, which tells whose memory it is")
def test_reading_all_adds_no_memory_of_its_own(tmp_path: Path) -> None:
    write_store(tmp_path, make_rows(2000, (64, 64)), 256)  # 16 MiB
    store = MapStore(tmp_path)
    store.read([0])
    before = anonymous_bytes()
    for row in range(2000):
        store.read([row])
        store.views([row])
    assert anonymous_bytes() - before < 2**20


def test_a_view_of_a_map_keeps_the_mapping(maps: Path) -> None:
    store = MapStore(maps)
    flat = store._rows["label_logit"]._flat  # type: ignore[attr-defined]
    del store
    assert flat[0].sum() == make_rows(17).payload["label_logit"][0].sum()


def test_unreadable_rows_are_zero_and_named(maps: Path) -> None:
    store = MapStore(maps)
    assert not store.read([4]).any()
    assert np.flatnonzero(store.statuses != STATUS_OK).tolist() == [4]
    assert store.errors == {4: "truncated: é\n2 bytes missing"}
