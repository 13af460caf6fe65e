"""benchmarks/integrity.py in short: no flip and no cut escapes, and the judge can tell when one does."""

from pathlib import Path

import pytest

from benchmarks.integrity import STORES, chunk, judge, regions, write_store


@pytest.mark.parametrize("store", STORES)
def test_random_damage_is_found_and_named(store: str) -> None:
    for damage, trials in (("flips", 60), ("truncations", 10)):
        found = chunk(damage, store, trials, seed=1)
        assert {one.verdict for one in found} == {"found"}, found
        assert found.total() == trials


def test_every_byte_is_in_one_region(tmp_path: Path) -> None:
    write_store(tmp_path / "maps", *STORES["topk"])
    for file in (tmp_path / "maps").iterdir():
        here = sorted((area.places.start, area.places.stop) for area in regions(tmp_path / "maps") if area.file == file)
        assert [start for start, _ in here] == [0, *(stop for _, stop in here[:-1])]
        assert here[-1][1] == file.stat().st_size


def test_the_judge_sees_what_is_wrong(tmp_path: Path) -> None:
    write_store(tmp_path / "maps", *STORES["label"])
    assert judge(tmp_path / "maps", 1, None) == "missed"
    area = next(a for a in regions(tmp_path / "maps") if (a.shard, a.name) == (1, "label"))
    raw = bytearray(area.file.read_bytes())
    raw[area.places.start] ^= 1
    area.file.write_bytes(raw)
    assert judge(tmp_path / "maps", 1, 3) == "found"
    assert judge(tmp_path / "maps", 1, 4) == "wrong row"
    assert judge(tmp_path / "maps", 0, 3) == "missed"
