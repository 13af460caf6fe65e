"""How close the whole job comes to its bounds: the bare forward pass on a resident batch, and decoding alone.

    python -m benchmarks.extract                                              # minutes, on this CPU
    python -m benchmarks.extract --device cuda --amp bf16 --batch-size 64 --workers 15

A light teacher behind large photographs, so that decoding is the bound, and a heavy one; on a GPU ResNet-101 and
NFNet-F6. The three take turns, round after round; medians are compared. A job's time includes opening the store,
decoding, the teacher, and the synced shards on the disk, but not building the teacher.

Wall time tells how well decoding and teacher overlap. On a CPU they also share the cores, which sets a limit that no
job can pass: cores / (CPU seconds of decoding + of the forward pass). What the job itself adds is seen in CPU seconds,
whatever else the machine does. OpenMP's threads sleep while they wait, as in `tokenmix extract`; put
`OMP_WAIT_POLICY=ACTIVE` in front of the command to see what their spinning costs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from benchmarks import read
from benchmarks.photographs import SIZE, write_photographs
from extract.images.image_list import ImageList
from extract.images.listing import list_images
from extract.job.decoding import Decoder
from extract.job.processes.pool import START_METHOD
from extract.job.run import run_job
from extract.settings import JobOptions, TeacherSpec
from extract.teacher.model import AMP_DTYPES
from extract.teacher.presets import apply_preset
from extract.teacher.timm_teacher import TimmTeacher
from tokenmix_commands.output.terminal import let_openmp_sleep

CLASSES = 10
RESULTS = Path(__file__).parent / "results"


class Case(NamedTuple):
    """A teacher at an input size in px (None: its own), and how many photographs of which size it looks at."""

    teacher: str
    input_px: int | None
    images: int
    photograph: tuple[int, int] = SIZE


CPU_CASES = {"light": Case("test_resnet", 96, 600, (1200, 900)), "heavy": Case("resnet101", None, 96)}
GPU_CASES = {"light": Case("resnet101", None, 8_000), "heavy": Case("nfnet_f6", None, 2_000)}
# What a kind of map costs over kind label, images and maps staying on the device.
KINDS: dict[str, dict[str, Any]] = {
    "label": {},
    "cam, fused only": {"kind": "cam", "spread": False, "rivals": 0},
    "cam": {"kind": "cam"},
    "cam, scales 1,2": {"kind": "cam", "scales": (1.0, 2.0)},
}
CPU_KIND_TEACHERS, GPU_KIND_TEACHERS = ("efficientnet_lite0", "resnet101"), ("resnet101", "efficientnet_lite0")


class Cost(NamedTuple):
    """Seconds for one image: by the clock, and of all processors together."""

    wall: float
    cpu: float


def main() -> None:
    """Measure every case, print and write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", default="none")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", choices=CPU_CASES, help="only this one; writes nothing")
    parser.add_argument("--kinds", action="store_true", help="only what kinds cost; the file keeps its cases")
    parser.add_argument("--out", type=Path, help="default: extract.json, on a GPU extract_gpu.json, of the results")
    given = parser.parse_args()
    on_gpu = given.device.startswith("cuda")
    cases = GPU_CASES if on_gpu else CPU_CASES
    path = given.out or RESULTS / ("extract_gpu.json" if on_gpu else "extract.json")
    options = {name: value for name, value in vars(given).items() if name != "out"}
    document: dict[str, Any] = {"cases": {}, "options": options, "machine": machine(given.device)}
    if given.kinds and path.exists():  # its cases may be another machine's
        document = json.loads(path.read_text(encoding="utf-8")) | {"machine_of": {"kinds": machine(given.device)}}
    document["kinds"] = {}

    def note(part: str, name: str, found: dict[str, Any]) -> None:
        """Print and write at once: a job that is killed keeps what it has."""
        print(json.dumps({name: found}, indent=1), flush=True)
        document[part][name] = found
        if not given.case:
            path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    for name in [] if given.kinds else [given.case] if given.case else cases:
        print(f"{name}: {cases[name]}", flush=True)
        note("cases", name, run(cases[name], given))
    for name in () if given.case else GPU_KIND_TEACHERS if on_gpu else CPU_KIND_TEACHERS:
        note("kinds", name, kind_costs(name, given))


def run(case: Case, given: argparse.Namespace) -> dict[str, Any]:
    """The figures of one case."""
    size = None if case.input_px is None else (case.input_px, case.input_px)
    spec = TeacherSpec(
        case.teacher, random_weights=0, num_classes=CLASSES, input_size=size, device=given.device, amp=given.amp
    )
    teacher = TimmTeacher(apply_preset(spec))
    options = JobOptions(batch_size=given.batch_size, decoding_processes=given.workers, shard_rows=1024)
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder) / "images", case.images, CLASSES, case.photograph)
        images = list_images(Path(folder) / "images")
        return {"case": case._asdict(), **measure(teacher, images, options, Path(folder), given.rounds)}


def kind_costs(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """Images per second of each kind's maps on a batch, and the time of each over that of kind label; in turns."""
    base = TeacherSpec(name, random_weights=0, num_classes=CLASSES, device=given.device, amp=given.amp)
    teachers = {kind: TimmTeacher(apply_preset(replace(base, **asked))) for kind, asked in KINDS.items()}
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(given.rounds + 1):
        for kind, teacher in teachers.items():
            seconds[kind].append(map_seconds(teacher, given.batch_size))
    typical = {kind: statistics.median(found[1:]) for kind, found in seconds.items()}
    return {
        "images_per_s": {kind: round(1 / found, 2) for kind, found in typical.items()},
        "time_over_label": {kind: round(found / typical["label"], 3) for kind, found in typical.items()},
    }


def map_seconds(teacher: TimmTeacher, batch_size: int, batches: int = 3) -> float:
    """Per image, from pixels in memory to maps in memory."""
    pixels = torch.randint(0, 256, (batch_size, 3, *teacher.preprocessing.input_size), dtype=torch.uint8)
    outputs = torch.zeros(batch_size, dtype=torch.int64)
    started = now(teacher)
    for _ in range(batches):
        teacher.start(pixels, outputs).result()
    return (now(teacher) - started) / (batches * batch_size)


def measure(teacher: TimmTeacher, images: ImageList, options: JobOptions, folder: Path, rounds: int) -> dict[str, Any]:
    """Images per second of the job, the forward pass and decoding, and how the job stands to each limit."""
    turns: dict[str, Callable[[int], Cost]] = {
        "forward": lambda _: forward_cost(teacher, options.batch_size),
        "decode": lambda _: cost(lambda: decode(teacher, images, options), len(images)),
        "job": lambda turn: cost(lambda: run_job(images, folder / f"maps{turn}", teacher, options), len(images)),
    }
    found: dict[str, list[Cost]] = {name: [] for name in turns}
    for turn in range(rounds):
        for name, run_turn in turns.items():
            found[name].append(run_turn(turn))
    wall, cpu = ({name: statistics.median(getattr(c, what) for c in costs) for name, costs in found.items()}
                 for what in ("wall", "cpu"))  # fmt: skip
    cores_limit = (os.cpu_count() or 1) / (cpu["decode"] + cpu["forward"])
    return {
        "images_per_s": {name: round(1 / seconds, 2) for name, seconds in wall.items()},
        "job_by_forward": round(wall["forward"] / wall["job"], 3),
        "job_by_decode": round(wall["decode"] / wall["job"], 3),
        "job_by_cores_limit": round(1 / wall["job"] / cores_limit, 3),
        "cpu_ms": {name: round(1e3 * seconds, 3) for name, seconds in cpu.items()},
        "cpu_of_job_by_its_parts": round(cpu["job"] / (cpu["decode"] + cpu["forward"]), 3),
    }


def cost(action: Callable[[], object], images: int) -> Cost:
    """Of an action on so many images, its child processes included."""
    started, cpu = time.monotonic(), cpu_seconds()
    action()
    return Cost((time.monotonic() - started) / images, (cpu_seconds() - cpu) / images)


def cpu_seconds() -> float:
    """User and system time of this process and of those of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


@torch.no_grad()
def forward_cost(teacher: TimmTeacher, batch_size: int, seconds: float = 5.0) -> Cost:
    """Of `model(x)` alone, on a normalised batch that is on the device."""
    pixels = torch.zeros(batch_size, 3, *teacher.preprocessing.input_size, dtype=torch.uint8)
    images = teacher.normalise(pixels)
    dtype = AMP_DTYPES[teacher.spec.amp]
    with torch.autocast(teacher.device.type, dtype, enabled=dtype is not None):
        teacher.model(images)
        started, cpu, batches = now(teacher), cpu_seconds(), 0
        while not batches or now(teacher) - started < seconds:
            for _ in range(4):  # so that a GPU always has the next one in its queue
                teacher.model(images)
            batches += 4
        done = batches * batch_size
        return Cost((now(teacher) - started) / done, (cpu_seconds() - cpu) / done)


def now(teacher: TimmTeacher) -> float:
    """The time when the device has done all that it was given."""
    if teacher.device.type == "cuda":
        torch.cuda.synchronize()
    return time.monotonic()


def decode(teacher: TimmTeacher, images: ImageList, options: JobOptions) -> None:
    """What the decoding processes do, without a teacher that takes their batches."""
    decoder = Decoder(images, teacher.preprocessing)
    loader: DataLoader[Any] = DataLoader(
        decoder,
        batch_size=options.batch_size,
        num_workers=options.decoding_processes,
        collate_fn=decoder.collate,
        multiprocessing_context=START_METHOD,
    )
    for _ in loader:
        pass


def machine(device: str) -> dict[str, Any]:
    """What the figures depend on."""
    gpu = torch.cuda.get_device_name() if device.startswith("cuda") else None
    policy = os.environ["OMP_WAIT_POLICY"]
    threads = {"threads": torch.get_num_threads(), "OMP_WAIT_POLICY": policy, "load": os.getloadavg()[0]}
    return {**read.machine(), **threads, "gpu": gpu}


if __name__ == "__main__":
    if "OMP_WAIT_POLICY" not in os.environ:  # torch has read it by now: once more, as the command sets it
        let_openmp_sleep()
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.extract", *sys.argv[1:]])
    main()
