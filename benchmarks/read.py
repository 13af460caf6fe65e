"""What a map costs to read, as a multiple of one raw `pread` of the same bytes (warm page cache).

    python -m benchmarks.read            # about a minute; writes benchmarks/results/read.json

The readers take turns at random rows, in random order, round after round, in one process; medians are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt
import torch

from store import Header, MapStore, RowBatch, ShardWriter, create_store, list_digest, shard_name

GRID = (18, 18)
MAP_NBYTES = 648
BATCH = 256
BATCHES = 4  # in a turn: enough that it hardly matters what the reader before left in the processor's caches
RAW = "os.pread"


class Reader(NamedTuple):
    """`prepare` turns row numbers [B] into what `read` takes; `read` is timed."""

    prepare: Callable[[npt.NDArray[np.int64]], Any]
    read: Callable[[Any], object]


def main() -> None:
    """Build a store, time the readers, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--shards", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=100, help="of one turn per reader")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "read.json")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as files:
        header = write_store(Path(folder) / "maps", rng, options.rows, options.shards)
        readers = make_readers(Path(folder), header, files)
        costs = measure(readers, rng, options.rows, options.rounds)
    print_table(costs)
    write_json(options.out, costs, options.rows, header.layout.shards, options.rounds)


def write_store(path: Path, rng: np.random.Generator, rows: int, shards: int) -> Header:
    """A store of random maps."""
    keys = [f"class{row % 1000:04d}/image{row:07d}.jpg" for row in range(rows)]
    labels = np.arange(rows, dtype=np.int32) % 1000
    dataset = {"root_name": "synthetic", "class_names": [], "digest": list_digest(keys, labels)}
    header = Header("label", {}, {}, GRID, "float16", rows, -(-rows // shards), dataset, {})
    create_store(path, header)
    for shard in range(header.layout.shards):
        start, stop = header.layout.bounds(shard)
        n = stop - start
        batch = RowBatch(
            payload={"label_logit": rng.standard_normal((n, *GRID)).astype(np.float16)},
            label=labels[start:stop],
            prediction=labels[start:stop],
            size=np.full((n, 2), 500, dtype=np.int32),
            view=np.tile(np.array([0, 0, 1, 1], dtype=np.float32), (n, 1)),
            status=np.zeros(n, dtype=np.uint8),
            key=keys[start:stop],
            error=[""] * n,
        )
        with ShardWriter(path, header, shard) as writer:
            writer.append(batch)
            writer.publish()
    return header


def make_readers(folder: Path, header: Header, files: ExitStack) -> dict[str, Reader]:
    """The readers by name; each is given what it needs for the rows, so that only the reading is timed."""
    maps = MapStore(folder / "maps")
    preloaded = MapStore(folder / "maps", preload=True)
    shards = [
        files.enter_context(h5py.File(folder / "maps" / shard_name(shard), "r"))["label_logit"]
        for shard in range(header.layout.shards)
    ]
    handles = [os.open(dataset.file.filename, os.O_RDONLY) for dataset in shards]
    for handle in handles:
        files.callback(os.close, handle)
    located = [divmod(row, header.shard_rows) for row in range(header.rows)]
    places = [(handles[shard], shards[shard].id.get_offset() + at * MAP_NBYTES) for shard, at in located]
    for row in range(header.rows):
        torch.save(torch.zeros(GRID, dtype=torch.float16), folder / f"{row}.pt")
    return {
        "ours, one row": Reader(np.ndarray.tolist, lambda rows: [maps.read_row(row) for row in rows]),
        "ours, batch of 256": Reader(np.asarray, maps.read),
        "ours, batch of 256, preloaded": Reader(np.asarray, preloaded.read),
        RAW: Reader(
            lambda rows: [places[row] for row in rows],
            lambda wanted: [os.pread(handle, MAP_NBYTES, at) for handle, at in wanted],
        ),
        "h5py indexing": Reader(
            lambda rows: [(shards[located[row][0]], located[row][1]) for row in rows],
            lambda wanted: [dataset[at] for dataset, at in wanted],
        ),
        "one .pt per image": Reader(
            lambda rows: [str(folder / f"{row}.pt") for row in rows],
            lambda paths: [torch.load(path, weights_only=True) for path in paths],
        ),
    }


def measure(readers: dict[str, Reader], rng: np.random.Generator, rows: int, rounds: int) -> dict[str, float]:
    """Median cost of a row in microseconds, by reader; every reader has rows of its own, drawn anew each turn."""
    times: dict[str, list[float]] = {name: [] for name in readers}
    for reader in readers.values():
        reader.read(reader.prepare(np.arange(rows)))  # every page has been touched once
    for _ in range(rounds):
        for name in rng.permutation(list(readers)).tolist():
            reader = readers[name]
            batches = [reader.prepare(rng.integers(rows, size=BATCH)) for _ in range(BATCHES)]
            started = time.perf_counter()
            for batch in batches:
                reader.read(batch)
            times[name].append((time.perf_counter() - started) / (BATCH * BATCHES) * 1e6)
    return {name: statistics.median(found) for name, found in times.items()}


def print_table(costs: dict[str, float]) -> None:
    """One line per reader: microseconds per row, and the ratio to a raw read."""
    print(f"{'reader':32}{'us/row':>10}{'x pread':>10}")
    for name, cost in costs.items():
        print(f"{name:32}{cost:10.3f}{cost / costs[RAW]:10.2f}")


def write_json(path: Path, costs: dict[str, float], rows: int, shards: int, rounds: int) -> None:
    """The same figures and the machine they were taken on."""
    result = {
        "us_per_row": {name: round(cost, 4) for name, cost in costs.items()},
        "ratio_to_pread": {name: round(cost / costs[RAW], 3) for name, cost in costs.items()},
        "rows": rows,
        "shards": shards,
        "rounds": rounds,
        "batch": BATCH,
        "machine": machine(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def machine() -> dict[str, str | int | None]:
    """What the figures depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "h5py": h5py.__version__,
        "hdf5": h5py.version.hdf5_version,
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    main()
