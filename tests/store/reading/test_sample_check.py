"""Maps that were shuffled, swapped or edited fail when the store is opened, with the shard and the row."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from store import MapStore, RowBatch, ShardError
from tests.store.conftest import make_rows, write_store
from tests.store.reading.test_reader import compressed, recreate

Edit = Callable[[list[h5py.File]], None]
ROWS, SHARD_ROWS = 500, 60


@pytest.fixture
def rows() -> RowBatch:
    return make_rows(ROWS)


@pytest.fixture
def maps(tmp_path: Path, rows: RowBatch) -> Path:
    write_store(tmp_path / "maps", rows, SHARD_ROWS)
    return tmp_path / "maps"


def edit(maps: Path, change: Edit) -> None:
    files = [h5py.File(path, "r+") for path in sorted(maps.glob("shard-*.h5"))]
    try:
        change(files)
    finally:
        for file in files:
            file.close()


def shuffled_within(*names: str) -> Edit:
    def change(files: list[h5py.File]) -> None:
        for file in files:
            order = np.random.default_rng(0).permutation(len(file["label"]))
            for name in names:
                file[name][...] = file[name][()][order]

    return change


def shuffled_across(*names: str) -> Edit:
    def change(files: list[h5py.File]) -> None:
        for name in names:
            values = np.concatenate([file[name][()] for file in files])
            values = values[np.random.default_rng(0).permutation(len(values))]
            for file in files:
                file[name][...], values = values[: len(file[name])], values[len(file[name]) :]

    return change


def swapped(files: list[h5py.File]) -> None:
    for name in ("label_logit",):
        first, second = files[2][name][()], files[5][name][()]
        files[2][name][...], files[5][name][...] = second, first


def edited_keys(files: list[h5py.File]) -> None:
    for file in files:
        file["key"][...] = [key.replace(b"eel", b"cat") for key in file["key"][()].tolist()]


@pytest.mark.parametrize(
    "change",
    [
        shuffled_within("label_logit"),
        shuffled_within("view"),
        shuffled_within("label"),
        shuffled_within("key"),
        shuffled_within("digest"),
        shuffled_within("key", "label"),
        shuffled_across("label_logit"),
        shuffled_across("label_logit", "view", "digest"),
        swapped,
        edited_keys,
    ],
)  # fmt: skip
@pytest.mark.parametrize("contiguous", [True, False])
def test_what_was_exchanged_fails_at_once(maps: Path, change: Edit, contiguous: bool) -> None:
    if not contiguous:
        recreate(maps, compressed)
    MapStore(maps)
    edit(maps, change)
    with pytest.raises(ShardError, match=r"shard-0000\d\.h5: row \d+, key '.*expected the map, label, view and key"):
        MapStore(maps)


def test_one_shuffled_shard_of_many(maps: Path) -> None:
    edit(maps, lambda files: shuffled_within("label_logit")(files[6:7]))
    with pytest.raises(ShardError, match=r"shard-00006\.h5: row (3[6-9]|4[01])\d"):
        MapStore(maps)


def test_the_rows_looked_at_are_few_known_and_always_the_same(maps: Path, rows: RowBatch) -> None:
    np.random.seed(1)  # noqa: NPY002 - the global generator is not looked at
    state = np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    first, again = MapStore(maps).checked, MapStore(maps).checked
    assert first == again
    assert np.random.get_state()[1].tolist() == state  # type: ignore[index]  # noqa: NPY002
    assert len(first) == 9 * 29 - (29 - 20)  # the last shard has 20 rows
    assert all(stored == (rows.key[row], rows.label[row]) for row, stored in first.items())
    assert {row // SHARD_ROWS for row in first} == set(range(9))


def test_workers_need_not_look_again(maps: Path) -> None:
    store: Any = pickle.loads(pickle.dumps(MapStore(maps)))
    assert store.checked == {}
    edit(maps, shuffled_within("label_logit"))
    assert len(MapStore(maps, check=False)) == ROWS


def test_a_shard_of_another_row(maps: Path) -> None:
    """Two equal shards with each other's names are foreign by their attributes, before any row is looked at."""
    kept = maps.parent / "kept"
    shutil.move(maps / "shard-00002.h5", kept)
    shutil.move(maps / "shard-00005.h5", maps / "shard-00002.h5")
    shutil.move(kept, maps / "shard-00005.h5")
    with pytest.raises(ShardError, match="attribute shard: expected 2, found 5"):
        MapStore(maps)
