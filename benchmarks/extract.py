"""How close the whole job comes to its bounds: the bare forward pass on a resident batch, and decoding alone.

    python -m benchmarks.extract                                     # light and heavy teacher on this CPU; minutes
    python -m benchmarks.extract --teacher dm_nfnet_f6 --device cuda --amp bf16 --batch-size 64 --images 20000

The three take turns, round after round, on JPEGs of 500 x 375 px; medians are compared. A job's time includes
opening the store, decoding, the teacher, and the synced shards on the disk, but not building the teacher.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from extract.images import ImageList, list_images
from extract.job import START_METHOD, JobOptions, run_job
from extract.preprocess import Decoder
from extract.teacher import Teacher, TeacherSpec

CASES = {"test_resnet": 512, "resnet101": 160}  # teacher -> images: decode-bound, and bound by the forward pass
CLASSES = 10


def main() -> None:
    """Measure every case, print and write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", help="instead of the two cases")
    parser.add_argument("--images", type=int, default=256, help="for --teacher")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", default="none")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "extract.json")
    given = parser.parse_args()
    cases = {given.teacher: given.images} if given.teacher else CASES
    options = JobOptions(batch_size=given.batch_size, workers=given.workers, shard_rows=1024)
    results = {}
    for name, count in cases.items():
        teacher = Teacher(TeacherSpec(name, random_weights=0, num_classes=CLASSES, device=given.device, amp=given.amp))
        with tempfile.TemporaryDirectory() as folder:
            images = draw_images(Path(folder) / "images", count)
            results[name] = measure(teacher, images, options, Path(folder), given.rounds)
        print(name, json.dumps(results[name]), flush=True)
    document = {"cases": results, "options": vars(given) | {"out": None}, "machine": machine(given.device)}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def draw_images(folder: Path, count: int) -> ImageList:
    """Photograph-like JPEGs: coarse noise, enlarged."""
    rng = np.random.default_rng(0)
    for i in range(count):
        file = folder / f"{i % CLASSES}" / f"{i:06d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(file, quality=90)
    return list_images(folder)


def measure(teacher: Teacher, images: ImageList, options: JobOptions, folder: Path, rounds: int) -> dict[str, float]:
    """Images per second of the job, the forward pass and decoding, and the job's share of either bound."""
    turns: dict[str, Callable[[int], float]] = {
        "forward": lambda _: forward_rate(teacher, options.batch_size),
        "decode": lambda _: decode_rate(teacher, images, options),
        "job": lambda turn: job_rate(teacher, images, options, folder / f"maps{turn}"),
    }
    rates: dict[str, list[float]] = {name: [] for name in turns}
    for turn in range(rounds):
        for name, run in turns.items():
            rates[name].append(run(turn))
    found = {name: round(statistics.median(values), 2) for name, values in rates.items()}
    bound = min(found["forward"], found["decode"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    share = {f"job_by_{name}": round(found["job"] / found[name], 3) for name in ("forward", "decode")}
    return {**found, **share, "job_by_bound": round(found["job"] / bound, 3), "peak_mib": peak}


@torch.no_grad()
def forward_rate(teacher: Teacher, batch_size: int, seconds: float = 3.0) -> float:
    """Of `model(x)` alone, on a normalised batch that is on the device."""
    pixels = torch.zeros(batch_size, 3, *teacher.preprocessing.input_size, dtype=torch.uint8)
    images = teacher.normalise(pixels)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(teacher.spec.amp)
    done, started = 0, 0.0
    with torch.autocast(teacher.device.type, dtype, enabled=dtype is not None):
        for turn in range(1_000_000):
            if turn == 1:
                started = now(teacher)
            teacher.model(images)
            done += batch_size if turn else 0
            if turn and now(teacher) - started > seconds:
                break
    return done / (now(teacher) - started)


def now(teacher: Teacher) -> float:
    """The time when the device has done all that it was given."""
    if teacher.device.type == "cuda":
        torch.cuda.synchronize()
    return time.monotonic()


def decode_rate(teacher: Teacher, images: ImageList, options: JobOptions) -> float:
    """Of the decoding processes, with nobody behind them."""
    decoder = Decoder(images, teacher.preprocessing)
    loader: DataLoader[Any] = DataLoader(
        decoder,
        batch_size=options.batch_size,
        num_workers=options.workers,
        collate_fn=decoder.collate,
        multiprocessing_context=START_METHOD,
    )
    started = time.monotonic()
    for _ in loader:
        pass
    return len(images) / (time.monotonic() - started)


def job_rate(teacher: Teacher, images: ImageList, options: JobOptions, store: Path) -> float:
    """Of the whole job, from the image list to the last synced shard."""
    started = time.monotonic()
    run_job(images, store, teacher, options)
    return len(images) / (time.monotonic() - started)


def machine(device: str) -> dict[str, Any]:
    """What the figures depend on."""
    gpu = torch.cuda.get_device_name() if device.startswith("cuda") else None
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "gpu": gpu,
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    main()
