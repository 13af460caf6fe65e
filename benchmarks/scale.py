"""What a large store costs on a login node: status, a resuming job's planning, opening for training, verify.

    python -m benchmarks.scale            # writes benchmarks/results/scale.json

The stores are real ones of ImageNet's sizes, 1,281,167 and 14,197,122 rows on an 18 x 18 grid in shards of 4,096
rows. Their maps are zero and lie in holes of the files, so that they need little disk; `verify` reads and digests
every byte of them all the same. Each figure is taken in a process of its own, files in the page cache. Last, the
seconds of CPU of joining an ImageFolder of 300,000 images, beside those with pathlib for the paths, taking turns.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt

from benchmarks.read import machine
from store import Header, MapStore, RowBatch, ShardWriter, create_store
from store.format.rows import list_digest
from store.spec import shard_name
from tokenmix_loader.join.folders import torchvision_names
from tokenmix_loader.join.rows import match_rows
from tokenmix_loader.join.source import Labels

GRID = (18, 18)
SHARD_ROWS = 4096
SIZES = {"ImageNet-1k": 1_281_167, "ImageNet-21k": 14_197_122}
BLOCK = 4096  # bytes of zeros that become a hole
JOINED_ROWS = 300_000

STEPS = {
    "status": "from extract.job.status import read_status; assert read_status(Path(path)).complete",
    "plan": (
        "from extract.job.shard_queue import ShardQueue; from extract.settings.worker import Worker\n"
        "from store import read_header\n"
        "queue = ShardQueue(Path(path), read_header(path), Worker(3, 1000)); assert queue.take() is None"
    ),
    "open": "from store import MapStore; store = MapStore(path); assert store.read([len(store) - 1]).shape[0] == 1",
    "open without a look": "from store import MapStore; MapStore(path, check=False).read([1])",
    "verify": "from store import verify; assert verify(path).ok",
}
IMPORTS = "import extract.job.status, extract.job.shard_queue, store"


def main() -> None:
    """Build each store, measure each step, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "scale.json")
    options = parser.parse_args()
    results: dict[str, dict[str, object]] = {}
    for name, rows in SIZES.items():
        with tempfile.TemporaryDirectory(prefix="scale-") as folder:
            path = Path(folder) / "maps"
            header = write_store(path, rows)
            results[name] = {"rows": rows, "shards": header.sharding.shards}
            results[name] |= {step: measure(step, code, path) for step, code in STEPS.items()}
            print(name, json.dumps(results[name]), flush=True)
    joins = measure_join()
    print("join", json.dumps(joins), flush=True)
    report = {"stores": results, "join": joins, "machine": machine()}
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def write_store(path: Path, rows: int) -> Header:
    """A complete store through the real writer; after each shard its zeros become holes."""
    keys, labels = _images(rows)
    dataset = {"root_name": "train", "class_names": [], "teacher_class": [], "digest": list_digest(keys, labels)}
    header = Header("label", {}, {}, GRID, "float16", rows, SHARD_ROWS, dataset, {})
    create_store(path, header)
    for shard in range(header.sharding.shards):
        start, stop = header.sharding.bounds(shard)
        n = stop - start
        batch = RowBatch(
            payload={"label_logit": np.zeros((n, *GRID), np.float16)},
            label=labels[start:stop],
            prediction=labels[start:stop],
            size=np.full((n, 2), 500, np.int32),
            view=np.tile(np.array([0, 0, 1, 1], np.float32), (n, 1)),
            status=np.zeros(n, np.uint8),
            key=keys[start:stop],
            error=[""] * n,
        )
        with ShardWriter(path, header, shard) as writer:
            writer.append(batch)
            writer.publish()
        punch_holes(path / shard_name(shard))
    return header


def measure_join() -> dict[str, float]:
    """Seconds of CPU, medians: a folder's keys and their join, with our keys and with those that pathlib makes."""
    root = "/data/imagenet/train"
    samples = [(f"{root}/{key}", label) for key, label in zip(*_images(JOINED_ROWS), strict=True)]
    dataset = SimpleNamespace(root=root, samples=samples)

    def by_pathlib(dataset: SimpleNamespace) -> tuple[list[str], list[int]]:
        pairs = [(str(Path(path).relative_to(root)), label) for path, label in dataset.samples]
        return [key for key, _ in pairs], [label for _, label in pairs]

    ways: dict[str, Callable[[SimpleNamespace], tuple[Sequence[str], Labels]]]
    ways = {"seconds": torchvision_names, "pathlib_seconds": by_pathlib}
    found: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        write_store(Path(folder) / "maps", JOINED_ROWS)
        store = MapStore(Path(folder) / "maps")
        for _ in range(5):
            for name, names_of in ways.items():
                started = time.process_time()
                match_rows(*names_of(dataset), store)
                found[name].append(time.process_time() - started)
    seconds = {name: round(median(times), 3) for name, times in found.items()}
    return {"images": JOINED_ROWS, **seconds, "share": round(seconds["seconds"] / seconds["pathlib_seconds"], 3)}


def _images(rows: int) -> tuple[list[str], npt.NDArray[np.int32]]:
    keys = [f"n{row // 1300:08d}/n{row // 1300:08d}_{row}.JPEG" for row in range(rows)]
    return keys, (np.arange(rows) // 1300).astype(np.int32)


def punch_holes(file: Path) -> None:
    """Write the file again, leaving out blocks of zeros."""
    sparse = file.with_suffix(".sparse")
    with open(file, "rb") as source, open(sparse, "wb") as target:
        while block := source.read(BLOCK):
            if block.count(0) == len(block):
                target.seek(len(block), os.SEEK_CUR)
            else:
                target.write(block)
        target.truncate()
    shutil.copystat(file, sparse)
    os.replace(sparse, file)


def measure(step: str, code: str, path: Path) -> dict[str, float]:
    """Seconds of the step without imports, and peak memory of its process in MB beyond that of the imports."""
    program = (
        f"import sys, time\nfrom pathlib import Path\n{IMPORTS}\n"
        "def memory(name): return int(Path('/proc/self/status').read_text().split(name)[1].split()[0])\n"
        "path = sys.argv[1]\nbefore = memory('VmRSS:')\nstarted = time.perf_counter()\n"
        f"{code}\n"
        "print(time.perf_counter() - started, (memory('VmHWM:') - before) / 1024)"
    )
    runs = 1 if step == "verify" else 3
    found = [
        list(map(float, subprocess.check_output([sys.executable, "-c", program, path], text=True).split()))
        for _ in range(runs)
    ]
    seconds, peak_mb = min(found)
    return {"seconds": round(seconds, 3), "memory_mb": round(peak_mb, 1)}


if __name__ == "__main__":
    main()
