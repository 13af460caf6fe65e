"""What a map costs to read and to write, in ours and in other formats, as multiples of the plain system calls.

    python -m benchmarks.read            # three minutes; writes benchmarks/results/read.json and docs/comparison.md

The same maps in every format. Warm: the readers take turns at random rows, round after round, in one process; medians
are compared, with one `os.pread` of a map's bytes from a plain file as the unit. Cold: the files' pages are dropped,
which mincore confirms, then one batch of random rows is read; folders and inodes stay cached, which favours many small
files. Written: the whole, against one write and fsync of the maps' bytes; only ours and the plain file are synced.
WebDataset reads in the order of its files. What is not installed is left out: `pip install '.[bench]'`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from benchmarks.peers import RAW, SHARDS, Peer, Read, cached_share, drop_cached, files_of, opened, peers, write_ours
from store import Header, MapStore

GRID = (18, 18)
BATCH = 256
BATCHES = 4  # in a turn: enough that it hardly matters what the reader before left in the processor's caches
WORKERS = 16
PAGE = Path(__file__).parents[1] / "docs" / "comparison.md"
Figures = dict[str, dict[str, float]]


def main() -> None:
    """Write the maps in every format, time writers and readers, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=30, help="of one turn per reader")
    parser.add_argument("--cold-rounds", type=int, default=25)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "read.json")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((options.rows, *GRID)).astype(np.float16)
    with tempfile.TemporaryDirectory() as folder:
        known = peers()
        folders = {name: Path(folder) / peer.folder for name, peer in known.items()}
        figures = write_all(known, folders, maps)
        cold = measure_cold(known, folders, rng, options.rows, options.cold_rounds)
        warm = measure_warm(known, folders, rng, options.rows, options.rounds)
        warm[f"ours, batch of 256, {WORKERS} workers"] = workers_us(folders["ours, batch of 256"], options.rows)
    for name, cost in warm.items():
        figures.setdefault(name, {})["warm_us"] = cost
    for name, cost in cold.items():
        figures[name]["cold_us"] = cost
    write_results(options.out, figures, options.rows, options.rounds)
    options.page.write_text(page(figures), encoding="utf-8")
    print(page(figures))


def write_store(path: Path, rng: np.random.Generator, rows: int, shards: int) -> Header:
    """A store of random maps."""
    return write_ours(path, rng.standard_normal((rows, *GRID)).astype(np.float16), shards)


def write_all(known: Mapping[str, Peer], folders: Mapping[str, Path], maps: Any) -> Figures:
    """Seconds that each peer takes to write them, median of three (of one where it is long), and bytes per image."""
    figures: Figures = {name: {} for name in known}
    for name, peer in known.items():
        if folders[name].exists():
            continue
        turns = 1 if peer.folder in ("files", "webdataset") else 3
        targets = [folders[name], *(folders[name].with_name(f"{peer.folder}-{turn}") for turn in range(1, turns))]
        seconds = statistics.median(_seconds_to_write(peer, target, maps) for target in targets)
        nbytes = sum(file.stat().st_size for file in files_of(folders[name]))
        figures[name] = {"written_s": seconds, "bytes_per_image": nbytes / len(maps)}
        for target in targets[1:]:
            shutil.rmtree(target)
    return figures


def measure_warm(
    known: Mapping[str, Peer], folders: Mapping[str, Path], rng: np.random.Generator, rows: int, rounds: int
) -> dict[str, float]:
    """Median cost of a row in microseconds, by reader; every reader has rows of its own, drawn anew each turn."""
    times: dict[str, list[float]] = {name: [] for name in known}
    with ExitStack() as stack:
        readers = {name: stack.enter_context(opened(peer, folders[name])) for name, peer in known.items()}
        for read in readers.values():
            _warm_up(read, rows)
        for _ in range(rounds):
            for name in rng.permutation(list(readers)).tolist():
                batches = [rng.integers(rows, size=BATCH) for _ in range(BATCHES)]
                times[name].append(_us_per_row(readers[name], batches))
    return {name: statistics.median(found) for name, found in times.items()}


def measure_cold(
    known: Mapping[str, Peer], folders: Mapping[str, Path], rng: np.random.Generator, rows: int, rounds: int
) -> dict[str, float]:
    """Median cost of a row in microseconds, in one batch of random rows that no cache has."""
    os.sync()
    times: dict[str, list[float]] = {name: [] for name in known if "preloaded" not in name}
    files = {name: files_of(folders[name]) for name in times}
    for _ in range(rounds):
        for name in times:
            with opened(known[name], folders[name]) as read:
                drop_cached(files[name])
                if (share := cached_share(files[name])) > 0.05:
                    raise RuntimeError(f"{name}: expected cold files, found {share:.0%} of their pages in memory")
                times[name].append(_us_per_row(read, [rng.integers(rows, size=BATCH)]))
    return {name: statistics.median(found) for name, found in times.items()}


def workers_us(path: Path, rows: int, seconds: float = 2.0) -> float:
    """Microseconds of wall time per row that WORKERS forked processes read together, warm."""
    store = MapStore(path)
    context: Any = multiprocessing.get_context("fork")
    barrier, counts = context.Barrier(WORKERS), context.Queue()
    arguments = (store, rows, seconds, barrier, counts)
    processes = [context.Process(target=_read_for, args=(*arguments, seed)) for seed in range(WORKERS)]
    for process in processes:
        process.start()
    count: int = sum(counts.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    return seconds / count * 1e6


def page(figures: Figures) -> str:
    """docs/comparison.md."""
    plain = figures[RAW]
    lines = [
        "# The same maps in other formats\n",
        "18 x 18 float16 maps of 648 bytes (uint8: 328), in random order. Times are multiples of the plain system",
        "call: one `pread` of a map's bytes, warm or cold, and for writing one write and fsync of all of them. Bytes:",
        "all files, ours with key, label, view, size and digest of each image. By `python -m benchmarks.read` on the",
        "machine that benchmarks/results/read.json names.\n",
        "| | row, warm | row, cold | written | bytes per image |",
        "|---|---|---|---|---|",
    ]
    for name, found in figures.items():
        cells = [
            *(
                f"{found[what] / plain[what]:{form}}" if what in found else ""
                for what, form in (("warm_us", ".2f"), ("cold_us", ".2f"), ("written_s", ".1f"))
            ),
            f"{found['bytes_per_image']:.0f}" if "bytes_per_image" in found else "",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write_results(path: Path, figures: Figures, rows: int, rounds: int) -> None:
    """The same figures and the machine they were taken on."""
    rounded = {name: {what: round(value, 4) for what, value in found.items()} for name, found in figures.items()}
    ratios = {
        f"ratio_to_{what}pread": {
            name: round(found[f"{kind}_us"] / figures[RAW][f"{kind}_us"], 3)
            for name, found in figures.items()
            if f"{kind}_us" in found
        }
        for what, kind in (("", "warm"), ("cold_", "cold"))
    }
    result = {"figures": rounded, **ratios, "map_bytes": {"float16": 648, "uint8": 328}, "rows": rows}
    result |= {"shards": SHARDS, "rounds": rounds, "batch": BATCH, "machine": machine()}
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


def _seconds_to_write(peer: Peer, target: Path, maps: Any) -> float:
    os.sync()
    started = time.perf_counter()
    peer.write(target, maps)
    return time.perf_counter() - started


def _warm_up(read: Read, rows: int, seconds: float = 2.0) -> None:
    """Touch every page once; what is slow has no pages of its own to touch, and need not read all."""
    end = time.perf_counter() + seconds
    for at in range(0, rows, BATCH):
        if time.perf_counter() < end:
            read(np.arange(at, min(at + BATCH, rows)))


def _us_per_row(read: Read, batches: list[Any]) -> float:
    started = time.perf_counter()
    for batch in batches:
        read(batch)
    return (time.perf_counter() - started) / sum(map(len, batches)) * 1e6


def _read_for(store: MapStore, rows: int, seconds: float, barrier: Any, counts: Any, seed: int) -> None:
    rng, count = np.random.default_rng(seed), 0
    barrier.wait()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        count += len(store.read(rng.integers(rows, size=BATCH)))
    counts.put(count)


if __name__ == "__main__":
    main()
