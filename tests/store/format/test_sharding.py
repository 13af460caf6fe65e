import numpy as np
import pytest

from store.format.sharding import Sharding
from store.spec import shard_name


def test_every_row_has_one_place() -> None:
    for rows in range(1, 30):
        for shard_rows in range(1, 33):
            sharding = Sharding(rows, shard_rows)
            places = [(s, i) for s in range(sharding.shards) for i in range(len(range(*sharding.bounds(s))))]
            shard, row = sharding.locate(np.arange(rows))
            assert list(zip(shard.tolist(), row.tolist(), strict=True)) == places


@pytest.mark.parametrize("earlier", [(7,), (1, 2), (6, 12), (3, 11, 13)])
def test_every_row_of_every_part_has_one_place(earlier: tuple[int, ...]) -> None:
    for shard_rows in range(1, 17):
        sharding = Sharding(17, shard_rows, earlier)
        bounds = [sharding.bounds(shard) for shard in range(sharding.shards)]
        assert [row for start, stop in bounds for row in range(start, stop)] == list(range(17))
        assert set(earlier) < {start for start, _ in bounds}  # each part begins a shard
        assert all(stop - start == shard_rows or stop in (*earlier, 17) for start, stop in bounds)
        places = [(s, i) for s in range(sharding.shards) for i in range(len(range(*sharding.bounds(s))))]
        shard, row = sharding.locate(np.arange(17))
        assert list(zip(shard.tolist(), row.tolist(), strict=True)) == places
        assert [sharding.shard_of(row) for row in range(17)] == shard.tolist()
        parts = [sum(end <= start for end in earlier) for start, _ in bounds]
        assert [sharding.part(shard) for shard in range(sharding.shards)] == parts


def test_an_extension_leaves_earlier_shards_where_they_are() -> None:
    before, after = Sharding(17, 6), Sharding(30, 6, (17,))
    assert [after.bounds(shard) for shard in range(3)] == [before.bounds(shard) for shard in range(3)]
    assert [after.bounds(shard) for shard in range(3, after.shards)] == [(17, 23), (23, 29), (29, 30)]


def test_only_the_last_shard_is_shorter() -> None:
    assert [Sharding(17, 6).bounds(s) for s in range(3)] == [(0, 6), (6, 12), (12, 17)]


@pytest.mark.parametrize("row", [-1, 17, 2**62])
def test_no_row_outside(row: int) -> None:
    with pytest.raises(IndexError, match=rf"row {row}: expected 0 <= row < 17"):
        Sharding(17, 6).locate(np.array([3, row]))


@pytest.mark.parametrize("shard", [-1, 3])
def test_no_shard_outside(shard: int) -> None:
    with pytest.raises(IndexError, match="expected 0 <= shard < 3"):
        Sharding(17, 6).bounds(shard)


def test_names_sort_and_go_on_beyond_five_digits() -> None:
    assert [shard_name(s) for s in (0, 42, 123456)] == ["shard-00000.h5", "shard-00042.h5", "shard-123456.h5"]
