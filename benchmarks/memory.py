"""Whether the job's memory stays flat: the resident set of all its processes over 20,000 images.

    python -m benchmarks.memory              # minutes; writes benchmarks/results/memory.json

What counts is the growth after the first tenth, in which libraries load and allocators settle. Resident sets are of
this process and its decoding processes; pages that these share are counted in each.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
from pathlib import Path

import torch

from benchmarks.photographs import write_photographs
from benchmarks.read import machine
from extract.images.listing import list_images
from extract.job.progress import Progress
from extract.job.run import run_job
from extract.settings import JobOptions, TeacherSpec
from extract.teacher.timm_teacher import TimmTeacher

CLASSES = 10
BATCH = 32
MB = 1e6


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "memory.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        samples = run(Path(folder), given.images)
    result = {"images": given.images, "growth_mb": growth_mb(samples), "peak_mb": max(mb for _, mb in samples)}
    print(json.dumps(result))
    thinned = samples[:: max(1, len(samples) // 40)]
    given.out.write_text(json.dumps({**result, "samples": thinned, "machine": machine()}, indent=1) + "\n")


def run(folder: Path, count: int, workers: int = 2, every: int = 10) -> list[tuple[int, float]]:
    """Run the job on `count` small images; (images done, MB of all processes) after every so many batches."""
    write_photographs(folder / "images", count, CLASSES, size=(160, 120))
    teacher = TimmTeacher(TeacherSpec("test_resnet", random_weights=0, num_classes=CLASSES, input_size=(64, 64)))
    samples: list[tuple[int, float]] = []

    def look(progress: Progress) -> None:
        if progress.done % (every * BATCH) == 0:
            samples.append((progress.done, resident_mb()))

    options = JobOptions(batch_size=BATCH, decoding_processes=workers, shard_rows=32 * BATCH)
    run_job(list_images(folder / "images"), folder / "maps", teacher, options, on_progress=look)
    return samples


def growth_mb(samples: list[tuple[int, float]]) -> float:
    """From the median of the second tenth to that of the last, so that no single sample decides."""
    tenth = max(1, len(samples) // 10)
    early, late = samples[tenth : 2 * tenth], samples[-tenth:]
    return round(_median(late) - _median(early), 1)


def _median(samples: list[tuple[int, float]]) -> float:
    return sorted(mb for _, mb in samples)[len(samples) // 2]


def resident_mb() -> float:
    """Of this process and its decoding processes."""
    pids = [os.getpid(), *(process.pid for process in multiprocessing.active_children())]
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return round(pages * resource.getpagesize() / MB, 1)


if __name__ == "__main__":
    main()
