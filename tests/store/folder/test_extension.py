"""Extended stores of which a part was lost or replaced: noticed, never mistaken for another store."""

from dataclasses import replace
from pathlib import Path

import h5py
import pytest

from store import Cause, RowBatch, StoreError, StoreMismatch, create_store, drop_extension, read_header, repair, verify
from tests.store.conftest import contents, flip, make_header, make_rows, part, write_extended


@pytest.fixture
def maps(tmp_path: Path, rows: RowBatch) -> Path:
    """17 rows in shards of 4, extended at row 6 and at row 11: shards 0-1, 2-3 and 4-5."""
    write_extended(tmp_path / "maps", rows, 4, [6, 11])
    return tmp_path / "maps"


def test_shards_of_another_extension_are_not_taken_over(maps: Path, rows: RowBatch) -> None:
    whole, header = contents(maps), read_header(maps)
    for suffix in ("json", "keys"):
        (maps / f"store-2.{suffix}").unlink()
    lost = contents(maps)
    foreign = make_header(replace(rows, key=[*rows.key[:-1], "eel/other.jpg"]), 4, earlier=header.earlier)
    with pytest.raises(StoreMismatch, match=r"extension 2: expected its own shards or none behind the first 4, found "
                       r"others, or damaged ones: shard-00004.h5, shard-00005.h5; give the images"):  # fmt: skip
        create_store(maps, foreign, rows.key[:11])
    assert contents(maps) == lost
    create_store(maps, header, rows.key[:11])  # the list that they were made of
    assert contents(maps) == whole
    assert verify(maps).ok


def test_the_last_header_counts_whatever_is_lost_before_it(maps: Path) -> None:
    header = read_header(maps)
    for name in ("store-1.json", "store.json"):
        (maps / name).unlink()
        assert read_header(maps) == header
        assert any(name in str(problem) for problem in verify(maps).problems)
    with pytest.raises(StoreError, match="expected store.json .* `tokenmix verify --repair` writes it again"):
        create_store(maps, header)


def test_a_lost_header_in_the_middle_is_written_again(maps: Path) -> None:
    whole = contents(maps)
    (maps / "store-1.json").unlink()
    (problem,) = verify(maps).problems
    assert problem.cause is Cause.MISSING_EARLIER_HEADER
    assert str(problem).startswith("store-1.json: missing: expected the header from before an extension; ")
    assert str(problem).endswith("`tokenmix verify --repair` writes it again")
    assert repair(maps)[1] == ["store-1.json: written again"]
    assert contents(maps) == whole


def test_a_header_of_another_store_is_set_aside(maps: Path, tmp_path: Path) -> None:
    whole = contents(maps)
    write_extended(tmp_path / "other", make_rows(17, seed=1), 4, [6, 11])
    foreign = (tmp_path / "other" / "store-1.json").read_bytes()
    (maps / "store-1.json").write_bytes(foreign)
    assert repair(maps)[1] == [
        "store-1.json: whole, but not what belongs here; now store-1.json.aside",
        "store-1.json: written again",
    ]
    assert contents(maps) == whole | {"store-1.json.aside": foreign}


@pytest.mark.parametrize("lost", ["store-1.keys", "store-2.keys"])
def test_keys_of_any_extension_are_written_again(lost: str, maps: Path) -> None:
    whole = contents(maps)
    (maps / lost).unlink()
    assert repair(maps)[1] == [f"{lost}: written again"]
    assert contents(maps) == whole


def test_keys_are_read_from_a_shard_before_it_goes(maps: Path) -> None:
    keys = (maps / "store-2.keys").read_bytes()
    (maps / "store-2.keys").unlink()
    with h5py.File(maps / "shard-00001.h5") as shard:
        payload = shard["label_logit"].id.get_offset()
    flip(maps / "shard-00001.h5", payload)
    assert repair(maps)[1] == ["store-2.keys: written again", "shard-00001.h5: damaged, removed"]
    assert (maps / "store-2.keys").read_bytes() == keys


def test_keys_that_no_shard_tells_stay_lost(maps: Path) -> None:
    (maps / "store-2.keys").unlink()
    (maps / "shard-00001.h5").write_bytes(b"torn")
    assert repair(maps)[1] == ["shard-00001.h5: damaged, removed"]


def test_keys_of_another_place_or_store_are_noticed(maps: Path, tmp_path: Path) -> None:
    whole = contents(maps)
    other = make_rows(17)
    write_extended(tmp_path / "other", replace(other, key=["eel/first.jpg", *other.key[1:]]), 4, [6, 11])
    for wrong in (maps / "store-1.keys", tmp_path / "other" / "store-2.keys"):
        (maps / "store-2.keys").write_bytes(wrong.read_bytes())
        assert ["store-2.keys: expected the keys of" in str(problem) for problem in verify(maps).problems] == [True]
        assert repair(maps)[1] == ["store-2.keys: written again"]
        assert contents(maps) == whole


def test_shards_whose_header_was_lost_name_the_way(maps: Path) -> None:
    (maps / "store-2.json").unlink()
    found = [str(problem) for problem in verify(maps).problems]
    assert ["Run `tokenmix extract --extend` with its images again" in line for line in found] == [True, True]


def test_extensions_are_taken_back_one_by_one(tmp_path: Path, maps: Path, rows: RowBatch) -> None:
    write_extended(tmp_path / "once", part(rows, 0, 11), 4, [6])
    removed = drop_extension(maps)
    assert removed == ["shard-00004.h5", "shard-00005.h5", "store-2.keys", "store-2.json"]
    assert contents(maps) == contents(tmp_path / "once")
    (maps / "store-1.keys").unlink()  # a fault on the way of an earlier attempt
    assert drop_extension(maps) == ["shard-00002.h5", "shard-00003.h5", "store-1.json"]
    assert verify(maps).ok
    with pytest.raises(StoreError, match="expected an extended store, found one without extensions"):
        drop_extension(maps)


def test_an_extension_stays_where_the_store_before_it_is_not_known(maps: Path) -> None:
    (maps / "store-1.json").unlink()
    lost = contents(maps)
    with pytest.raises(StoreError, match=r"expected store-1\.json in it"):
        drop_extension(maps)
    assert contents(maps) == lost
