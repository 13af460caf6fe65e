"""Extended stores of which a part was lost or replaced: noticed, never mistaken for another store."""

from dataclasses import replace
from pathlib import Path

import pytest

from store import RowBatch, StoreMismatch, create_store, read_header, verify
from tests.store.conftest import make_header, write_extended


@pytest.fixture
def maps(tmp_path: Path, rows: RowBatch) -> Path:
    """17 rows in shards of 4, extended at row 6 and at row 11: shards 0-1, 2-3 and 4-5."""
    write_extended(tmp_path / "maps", rows, 4, [6, 11])
    return tmp_path / "maps"


def contents(maps: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in maps.iterdir()}


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
