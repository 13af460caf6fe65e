"""`index.h5`: all shards as one, in tools that know nothing of shards."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from cli import main
from store import MapStore, RowBatch, ShardError, verify
from store.index import write_index
from tests.store.conftest import make_rows, part, write_extended, write_store
from tests.store.reading.test_kinds import batch_of, header_of, payload_of


@pytest.mark.parametrize("kind", ["label", "topk"])
def test_every_dataset_over_all_rows(tmp_path: Path, kind: str) -> None:
    write_store(tmp_path / "maps", batch_of(kind), 3, **header_of(kind))
    index = write_index(tmp_path / "maps")
    moved = tmp_path / "elsewhere"
    (tmp_path / "maps").rename(moved)
    shards = sorted(moved.glob("shard-*.h5"))
    with h5py.File(moved / index.name) as file:
        for name in file:
            parts = []
            for shard in shards:
                with h5py.File(shard) as source:
                    parts.append(source[name][()])
            np.testing.assert_array_equal(file[name][()], np.concatenate(parts))
        for name, values in payload_of(kind).items():
            np.testing.assert_array_equal(file[name][()], values, strict=True)
        assert file["key"].asstr()[()].tolist() == batch_of(kind).key
    assert verify(moved).ok
    assert len(MapStore(moved)) == 7


def test_written_again_after_a_change(maps: Path, rows: RowBatch) -> None:
    (maps / "index.h5").write_bytes(b"old")
    CliRunner().invoke(main, ["index", str(maps)], catch_exceptions=False)
    with h5py.File(maps / "index.h5") as file:
        np.testing.assert_array_equal(file["view"][()], rows.view)
    assert {path.name for path in maps.iterdir() if path.name.startswith("index")} == {"index.h5"}


def test_incomplete_and_torn_stores_have_no_index(maps: Path) -> None:
    shard = maps / "shard-00001.h5"
    shard.rename(maps.parent / "kept")
    with pytest.raises(ShardError, match=r"expected 3 shards, found 2; 1 missing: 1"):
        write_index(maps)
    shutil.copy(maps / "shard-00000.h5", shard)
    with pytest.raises(ShardError, match=r"shard-00001\.h5: attribute shard"):
        write_index(maps)
    assert not (maps / "index.h5").exists()


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_a_shard_lost_since_does_not_look_like_rows(tmp_path: Path, dtype: str) -> None:
    write_store(tmp_path, make_rows(8, dtype="float32"), 4, dtype=dtype)
    index = write_index(tmp_path)
    (tmp_path / "shard-00001.h5").unlink()
    with h5py.File(index) as file:
        assert (file["status"][4:] == 255).all()
        assert (file["label"][4:] == -1).all()
        assert set(file["key"][4:]) == {b""}
        assert np.isnan(file["view"][4:]).all()
        assert np.isnan(file["label_logit" if dtype == "float32" else "scale_offset"][4:]).all()
        assert np.isfinite(file["view"][:4]).all()


@pytest.mark.skipif(shutil.which("h5dump") is None, reason="needs HDF5's own tools")
def test_hdf5_s_own_tools_see_one_array(maps: Path, rows: RowBatch, tmp_path: Path) -> None:
    write_index(maps)
    command: list[Any] = ["h5dump", "-d", "/label", "-y", "-w", "0", maps / "index.h5"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    data = shown.split("DATA {")[1].split("}")[0]
    assert [int(number) for number in data.replace(",", " ").split()] == part(rows, 0, 17).label.tolist()


def test_an_extended_store_has_shorter_shards_within(tmp_path: Path) -> None:
    whole = make_rows(17)
    write_extended(tmp_path / "maps", whole, 4, [10])
    with h5py.File(write_index(tmp_path / "maps")) as file:
        np.testing.assert_array_equal(file["label_logit"][()], whole.payload["label_logit"])
    store = MapStore(tmp_path / "maps")
    np.testing.assert_array_equal(store.read(range(17)), whole.payload["label_logit"])
    assert all(stored == (whole.key[row], whole.label[row]) for row, stored in store.checked.items())
    assert verify(tmp_path / "maps").ok
