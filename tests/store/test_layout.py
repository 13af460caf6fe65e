import numpy as np
import pytest

from store import Layout, shard_name


def test_every_row_has_one_place() -> None:
    for rows in range(1, 30):
        for shard_rows in range(1, 33):
            layout = Layout(rows, shard_rows)
            places = [(s, i) for s in range(layout.shards) for i in range(len(range(*layout.bounds(s))))]
            shard, row = layout.locate(np.arange(rows))
            assert list(zip(shard.tolist(), row.tolist(), strict=True)) == places


def test_only_the_last_shard_is_shorter() -> None:
    assert [Layout(17, 6).bounds(s) for s in range(3)] == [(0, 6), (6, 12), (12, 17)]


@pytest.mark.parametrize("row", [-1, 17, 2**62])
def test_no_row_outside(row: int) -> None:
    with pytest.raises(IndexError, match=rf"row {row}: expected 0 <= row < 17"):
        Layout(17, 6).locate(np.array([3, row]))


@pytest.mark.parametrize("shard", [-1, 3])
def test_no_shard_outside(shard: int) -> None:
    with pytest.raises(IndexError, match="expected 0 <= shard < 3"):
        Layout(17, 6).bounds(shard)


def test_names_sort_and_go_on_beyond_five_digits() -> None:
    assert [shard_name(s) for s in (0, 42, 123456)] == ["shard-00000.h5", "shard-00042.h5", "shard-123456.h5"]
