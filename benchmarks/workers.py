"""What reading costs in memory under load: workers, ranks, a million reads, a store larger than memory.

    python -m benchmarks.workers          # two minutes; writes benchmarks/results/workers.json

Linux only: memory is what /proc/PID/smaps says. Private memory is what a worker has dirtied for itself beyond what the
same worker dirties when it makes arrays of the same size without a store.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import pickle
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from benchmarks.read import machine, write_store
from store import Header, MapStore, create_store
from store.format.rows import list_digest
from store.format.shard import attributes
from store.spec import LIBVER, TEXTS, shard_name

Array = npt.NDArray[Any]
BATCH = 256
MB = 1 << 20


def main() -> None:
    """Run every scene, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "workers.json")
    options = parser.parse_args()
    result: dict[str, Any] = {"rows": options.rows, "workers": options.workers, "epochs": options.epochs}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "maps"
        write_store(path, np.random.default_rng(0), options.rows, 64)
        for method in ("fork", "spawn"):
            result[f"private MB per {method} worker"] = private_mb(path, method, options.workers, options.epochs)
        result["growth MB over 1,000,000 reads"] = growth_mb(path, 1_000_000)
        result["copies of the maps that 8 ranks hold"] = copies_held(path, 8)
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        result["larger than memory"] = read_sparse(Path(folder) / "sparse", int(1.1 * memory))
    print(json.dumps(result, indent=1))
    options.out.write_text(json.dumps(result | {"machine": machine()}, indent=1) + "\n", encoding="utf-8")


def private_mb(path: Path, method: str, workers: int, epochs: int) -> float:
    """Median over persistent workers of the private memory that reading `epochs` of the store adds."""
    store = MapStore(path)
    store.read([0])
    given: Any = store if method == "fork" else pickle.dumps(store)
    read = _in_workers(method, workers, partial(_read_epochs, given, epochs))
    control = _in_workers(method, workers, partial(_read_epochs, (len(store), store.grid), epochs))
    return round(statistics.median(read) - statistics.median(control), 3)


def growth_mb(path: Path, reads: int) -> float:
    """Private memory that a process gains over `reads` rows, half of them one by one, once it has warmed up."""
    return round(_in_workers("fork", 1, partial(_grow, path, reads))[0], 3)


def copies_held(path: Path, ranks: int) -> float:
    """Proportional memory (Pss) of the shards in `ranks` processes that all hold all maps, over the maps' size."""
    context: Any = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(ranks), context.Queue()
    processes = [context.Process(target=_hold, args=(path, barrier, results)) for _ in range(ranks)]
    for process in processes:
        process.start()
    held: float = sum(results.get(timeout=300) for _ in processes)
    for process in processes:
        process.join()
    header = MapStore(path).header
    return round(held / (header.rows * 2 * header.grid[0] * header.grid[1] / MB), 3)


def read_sparse(path: Path, nbytes: int, batches: int = 40) -> dict[str, float]:
    """Random batches of a store of `nbytes` that lies in holes of its files; its reader knows that it is too large."""
    store = sparse_store(path, nbytes)
    rng, before, started = np.random.default_rng(0), private_memory(), time.perf_counter()
    for _ in range(batches):
        if store.read(np.sort(rng.integers(len(store), size=BATCH))).any():
            raise AssertionError("holes read as zeros")
    return {
        "GB": round(nbytes / 1e9, 1),
        "GB on the disk": round(sum(file.stat().st_blocks for file in path.iterdir()) * 512 / 1e9, 3),
        "us per row": round((time.perf_counter() - started) / batches / BATCH * 1e6, 1),
        "private MB": round((private_memory() - before) / MB, 3),
    }


def sparse_store(path: Path, nbytes: int, side: int = 256, shard_rows: int = 4096) -> MapStore:
    """A store of zero maps of which only the structures are on the disk; digests are zero, so it is not looked at."""
    rows = -(-nbytes // (2 * side * side))
    keys, labels = [f"a/{row}" for row in range(rows)], np.zeros(rows, np.int32)
    dataset = {"root_name": "sparse", "class_names": [], "teacher_class": [], "digest": list_digest(keys, labels)}
    header = Header("label", {}, {}, (side, side), "float16", rows, shard_rows, dataset, {})
    create_store(path, header)
    for shard in range(header.sharding.shards):
        begin, end = header.sharding.bounds(shard)
        with h5py.File(path / shard_name(shard), "w", libver=LIBVER, alignment_interval=4096) as file:
            for name, dtype, shape in header.datasets:
                _hole(file, name, dtype, (end - begin, *shape))
            for name in TEXTS:
                _hole(file, name, h5py.string_dtype("utf-8", 16), (end - begin,))
            for name, value in attributes(header, shard).items():
                file.attrs[name] = np.bytes_(value) if isinstance(value, str) else np.int64(value)
    return MapStore(path, check=False)


def private_memory(kind: str = "Private_Dirty") -> int:
    """Bytes of this process that no other shares."""
    lines = Path("/proc/self/smaps_rollup").read_text("ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{kind}:"))


def _hole(file: h5py.File, name: str, dtype: Any, shape: tuple[int, ...]) -> None:
    """A contiguous dataset with a place in the file, and nothing written to it but one zero."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    space, kind = h5py.h5s.create_simple(shape), h5py.h5t.py_create(dtype, logical=True)
    dataset = h5py.Dataset(h5py.h5d.create(file.id, name.encode(), kind, space, properties))
    dataset[0] = np.zeros(shape[1:], dtype) if dataset.dtype.kind != "S" else b"a"


def _read_epochs(given: Any, epochs: int) -> float:
    before = private_memory()
    if isinstance(given, bytes):
        given = pickle.loads(given)
    rows = given[0] if isinstance(given, tuple) else len(given)
    rng = np.random.default_rng(os.getpid())
    for _ in range(epochs):
        order = rng.permutation(rows)
        for at in range(0, rows, BATCH):
            chosen = order[at : at + BATCH]
            if isinstance(given, tuple):
                np.zeros((len(chosen), *given[1]), np.float16)
            else:
                given.read(chosen)
                given.views(chosen)
    return (private_memory() - before) / MB


def _grow(path: Path, reads: int) -> float:
    store = MapStore(path)
    rng = np.random.default_rng(0)
    before = 0
    for at in range(-(reads // 10), reads, 2 * BATCH):
        if before == 0 and at >= 0:
            before = private_memory()
        chosen = rng.integers(len(store), size=BATCH)
        store.read(chosen)
        for row in chosen.tolist():
            store.read([row])
    return (private_memory() - before) / MB


def _hold(path: Path, barrier: Any, results: Any) -> None:
    store = MapStore(path)
    for at in range(0, len(store), BATCH):
        store.read(range(at, min(at + BATCH, len(store))))
    barrier.wait()
    entries = Path("/proc/self/smaps").read_text("utf-8").split("VmFlags:")
    results.put(sum(_pss(entry) for entry in entries if str(path) in entry) / MB)
    barrier.wait()


def _pss(entry: str) -> int:
    return 1024 * next(int(line.split()[1]) for line in entry.splitlines() if line.startswith("Pss:"))


def _in_workers(method: str, workers: int, task: Any) -> list[float]:
    """What the task returns in each of so many processes at once."""
    context: Any = multiprocessing.get_context(method)
    results = context.Queue()
    processes = [context.Process(target=_report, args=(task, results)) for _ in range(workers)]
    for process in processes:
        process.start()
    found = [results.get(timeout=600) for _ in processes]
    for process in processes:
        process.join()
    return found


def _report(task: Any, results: Any) -> None:
    results.put(task())


if __name__ == "__main__":
    main()
