"""What a job would write and take, before anything runs."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from extract.images.classes import TeacherClasses
from extract.images.image_list import ImageList
from extract.images.same_files import require_same_files
from extract.images.stored_order import columns_of, in_stored_order, require_same
from extract.job.decoding import Decoder
from extract.job.run import make_header
from extract.settings import JobOptions
from extract.teacher.protocol import Teacher
from store import Header
from store.folder.files import present_shards
from store.format.table import row_nbytes
from store.spec import HEADER_FILE


@dataclass(frozen=True)
class Plan:
    """Sizes are exact; rates are measured here: decoding on images from all over the list, the teacher on blanks."""

    header: Header
    shards: int
    nbytes: int
    decode_rate: float  # images per second of all decoding processes together
    teacher_rate: float  # images per second

    @property
    def hours(self) -> float:
        """Decoding and teacher overlap, so the slower decides; on a CPU they also share the cores."""
        return self.header.rows / min(self.decode_rate, self.teacher_rate) / 3600


def make_plan(images: ImageList, teacher: Teacher, classes: TeacherClasses, options: JobOptions) -> Plan:
    """Measure a few batches and add up; writes nothing. Raises what the job would raise at its start."""
    header = make_header(images, teacher, options, classes.outputs)
    return Plan(
        header=header,
        shards=header.sharding.shards,
        nbytes=header.rows * row_nbytes(header),
        decode_rate=_decode_rate(images, teacher) * max(1, options.decoding_processes),
        teacher_rate=_teacher_rate(teacher, min(options.batch_size, options.shard_rows, len(images))),
    )


def missing_shards(
    images: ImageList, teacher: Teacher, classes: TeacherClasses, store: Path, options: JobOptions
) -> int:
    """How many shards the job would have to do; writes nothing. Raises what the job would raise at its start."""
    images, earlier = in_stored_order(images, store, extend=options.extend)
    header = make_header(images, teacher, options, classes.outputs, earlier, columns_of(store))
    if not (store / HEADER_FILE).exists():
        return header.sharding.shards
    require_same(store, header)
    require_same_files(images, store, header)
    return header.sharding.shards - len(present_shards(store, header))


def _decode_rate(images: ImageList, teacher: Teacher, seconds: float = 2.0) -> float:
    decoder = Decoder(images, teacher.preprocessing)
    started, done = time.monotonic(), 0
    for done in itertools.count(1):
        decoder[(done * 7919) % len(images)]
        if time.monotonic() - started > seconds:
            break
    return done / (time.monotonic() - started)


def _teacher_rate(teacher: Teacher, batch_size: int, seconds: float = 5.0) -> float:
    pixels = torch.zeros(batch_size, 3, *teacher.preprocessing.input_size, dtype=torch.uint8)
    labels = torch.zeros(batch_size, dtype=torch.int64)
    times: list[float] = []
    while len(times) < 2 or (sum(times) < seconds and len(times) < 20):
        started = time.monotonic()
        teacher.start(pixels, labels).result()  # ends with a copy to the CPU, so the device has finished
        times.append(time.monotonic() - started)
        if times[0] > seconds:
            break
    return batch_size / median(times)
