"""Whether `verify` finds damage: 10,000 random single-bit flips and 1,000 truncations of the files of real stores.

    python -m benchmarks.integrity            # about two minutes; writes benchmarks/results/integrity.json

A flip is drawn from a random region of a random file: each dataset, HDF5's own structures and the gaps between them,
the checksum, headers, keys, the head. It counts as found when `verify` reports this shard and no other and, in a
dataset of rows, this row and no other. Runs in child processes, so that a crash of HDF5 would be seen.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from benchmarks.read import machine
from store import Header, RowBatch, ShardWriter, StoreError, create_store, verify
from store.folder.head import Head, write_head
from store.format.checksum import CHECKSUM_NBYTES
from store.format.rows import list_digest
from store.spec import OPTIONAL_COLUMNS, STATUS_UNREADABLE

GRID = (3, 4)
ROWS, SHARD_ROWS = 8, 3
COLUMNS = tuple(column.name for column in OPTIONAL_COLUMNS)
STORES: dict[str, tuple[Any, ...]] = {  # name -> kind, dtype, depth, rows before an extension, optional columns
    "label": ("label", "float16", 1, 0),
    "label without optional columns": ("label", "float16", 1, 0, ()),
    "label uint8": ("label", "uint8", 1, 0),
    "label extended": ("label", "float16", 1, 5),
    "topk": ("topk", "float16", 3, 0),
    "features": ("features", "float16", 5, 0),
}
CHUNK = 250  # trials of one child


class Region(NamedTuple):
    """Bytes of a file; rows of `row_nbytes` from the store's row `first_row` on, 0 for what has no rows."""

    file: Path
    shard: int | None
    name: str
    places: range
    first_row: int = 0
    row_nbytes: int = 0


class Found(NamedTuple):
    """What became of one damage."""

    store: str
    region: str
    verdict: str  # found; missed, wrong shard, wrong row


def main() -> None:
    """Damage, judge, print and write; exit status 1 unless all is found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=10_000)
    parser.add_argument("--truncations", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "integrity.json")
    options = parser.parse_args()
    result = {name: summary(run(name, getattr(options, name), options.seed)) for name in ("flips", "truncations")}
    print(json.dumps(result, indent=1))
    options.out.write_text(
        json.dumps({"seed": options.seed, **result, "machine": machine()}, indent=1) + "\n", encoding="utf-8"
    )
    if any(part["found"] < part["tried"] for part in result.values()):
        raise SystemExit(1)


def run(damage: str, trials: int, seed: int) -> Counter[Found]:
    """`trials` times "flips" or "truncations", as many to each store as to another, but for a remainder."""
    shares = {name: (trials + number) // len(STORES) for number, name in enumerate(STORES)}
    jobs = [
        (name, min(CHUNK, share - at), seed + at) for name, share in shares.items() for at in range(0, share, CHUNK)
    ]
    with ProcessPoolExecutor(os.cpu_count()) as pool:  # raises BrokenProcessPool when a child crashes
        return sum(pool.map(partial(chunk, damage), *zip(*jobs, strict=True)), Counter())


def chunk(damage: str, name: str, trials: int, seed: int) -> Counter[Found]:
    """Some trials on a store of this child's own."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "maps"
        write_store(path, *STORES[name])
        areas = list(regions(path))
        attempt = flip if damage == "flips" else truncate
        return Counter(Found(name, *attempt(path, areas, rng)) for _ in range(trials))


def flip(path: Path, areas: list[Region], rng: np.random.Generator) -> tuple[str, str]:
    """Flip one bit, verify, and put it back."""
    area = draw(areas, rng)
    at, bit = area.places[rng.integers(len(area.places))], rng.integers(8)
    sound = area.file.read_bytes()
    damaged = bytearray(sound)
    damaged[at] ^= 1 << int(bit)
    area.file.write_bytes(damaged)
    row = area.first_row + (at - area.places.start) // area.row_nbytes if area.row_nbytes else None
    verdict = judge(path, area.shard, row)
    area.file.write_bytes(sound)
    return area.name, verdict


def truncate(path: Path, areas: list[Region], rng: np.random.Generator) -> tuple[str, str]:
    """Cut a file, anywhere or near its end, verify, and make it whole."""
    area = draw(areas, rng)
    sound = area.file.read_bytes()
    lost = rng.integers(1, len(sound) + 1) if rng.random() < 0.5 else rng.integers(1, 33)
    os.truncate(area.file, len(sound) - int(lost))
    verdict = judge(path, area.shard, None)
    area.file.write_bytes(sound)
    return area.file.name, verdict


def draw(areas: list[Region], rng: np.random.Generator) -> Region:
    """Every name is as likely as another, however many bytes or files it has."""
    name = rng.choice(sorted({area.name for area in areas}))
    candidates = [area for area in areas if area.name == name]
    return candidates[rng.integers(len(candidates))]


def judge(path: Path, shard: int | None, row: int | None) -> str:
    """What `verify` makes of damage in this shard and row; None for what lies in no shard, or in no row."""
    try:
        found = [(problem.shard, problem.row) for problem in verify(path).problems]
    except StoreError:  # the header cannot be read, which is all that there is to say
        found = [(None, None)]
    shards = {shard for shard, _ in found}
    if shard not in shards:
        return "missed"
    if shards - {shard, None}:
        return "wrong shard"
    named = {row for _, row in found} - {None}
    return "found" if row is None or named == {row} else "wrong row"


def regions(path: Path) -> Iterator[Region]:
    """All bytes of all files, each in one region."""
    for file in sorted(path.iterdir()):
        if not file.name.startswith("shard-"):
            yield Region(file, None, file.name, range(file.stat().st_size))
            continue
        with h5py.File(file) as opened:
            shard, first_row = int(opened.attrs["shard"]), int(opened.attrs["row_start"])
            inside = [dataset(file, shard, first_row, opened[name]) for name in opened]
        yield from inside
        end = file.stat().st_size - CHECKSUM_NBYTES
        yield Region(file, shard, "checksum", range(end, end + CHECKSUM_NBYTES))
        ends = [0, *sorted(area.places.stop for area in inside)]
        starts = [*sorted(area.places.start for area in inside), end]
        for start, stop in zip(ends, starts, strict=True):
            if start < stop:
                yield Region(file, shard, "HDF5 structures and gaps", range(start, stop))


def dataset(file: Path, shard: int, first_row: int, opened: h5py.Dataset) -> Region:
    """Where a dataset lies."""
    offset, nbytes = opened.id.get_offset(), opened.id.get_storage_size()
    name = opened.name.removeprefix("/")
    return Region(file, shard, name, range(offset, offset + nbytes), first_row, nbytes // len(opened))


def write_store(path: Path, kind: str, dtype: str, depth: int, before: int, columns: tuple[str, ...] = COLUMNS) -> None:
    """Random rows, one of them unreadable; `before` of them, if any, before an extension."""
    rng = np.random.default_rng(0)
    keys, labels = [f"class/image {row}.jpg" for row in range(ROWS)], np.arange(ROWS, dtype=np.int32)
    dataset: dict[str, Any] = {
        "root_name": "train",
        "class_names": ["class"] * ROWS,
        "teacher_class": list(range(ROWS)),
        "digest": list_digest(keys, labels),
    }
    header = Header(
        kind, {"name": "none", "classes": ROWS}, {}, GRID, dtype, ROWS, SHARD_ROWS, dataset, {"h5py": "3"}, depth
    )
    header = replace(header, columns=columns)
    if before:
        header = replace(header, earlier=((before, list_digest(keys[:before], labels[:before])),))
        create_store(path, header.before(0))
    create_store(path, header, keys[:before])
    if kind == "features":
        write_head(path, header, Head(np.ones((ROWS, depth), np.float32), np.zeros(ROWS, np.float32)))
    bad = np.arange(ROWS) == ROWS // 2
    payload: dict[str, Any] = {}
    for field in header.maps:
        drawn = rng.random((ROWS, *field.shape))
        values = drawn.argsort(axis=1) if field.dtype.kind == "u" else -np.sort(-drawn * 9, axis=1)  # classes, logits
        values = values.astype(field.dtype)
        values[bad] = 0
        payload[field.name] = values
    for shard in range(header.sharding.shards):
        part = slice(*header.sharding.bounds(shard))
        with ShardWriter(path, header, shard) as writer:
            writer.append(
                RowBatch(
                    payload={name: values[part] for name, values in payload.items()},
                    label=labels[part],
                    prediction=labels[part],
                    size=np.full((len(keys[part]), 2), 500, np.int32),
                    view=np.tile(np.array([0, 0, 1, 1], np.float32), (len(keys[part]), 1)),
                    status=np.where(bad[part], STATUS_UNREADABLE, 0).astype(np.uint8),
                    key=keys[part],
                    error=["cut off" if one else "" for one in bad[part]],
                    orientation=np.where(bad[part], 0, labels[part] % 8 + 1).astype(np.uint8),
                    fingerprint=rng.integers(1, 1 << 64, len(keys[part]), dtype=np.uint64),
                )
            )
            writer.publish()


def summary(counts: Counter[Found]) -> dict[str, Any]:
    """Tried and found, in all, by store and by region; other verdicts by name."""
    result: dict[str, Any] = {"tried": counts.total(), "found": 0, "store": {}, "region": {}}
    for one, count in sorted(counts.items()):
        result["found"] += count * (one.verdict == "found")
        for by in ("store", "region"):
            line = result[by].setdefault(getattr(one, by), {"tried": 0, "found": 0})
            line["tried"] += count
            line[one.verdict] = line.get(one.verdict, 0) + count
    return result


if __name__ == "__main__":
    main()
