"""A real extraction that a server forks within milliseconds: torch is imported and the teacher built once."""

from __future__ import annotations

from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path

import torch

from extract.images.listing import list_images
from extract.job.run import run_job
from extract.settings import JobOptions, TeacherSpec
from extract.teacher.timm_teacher import TimmTeacher

torch.set_num_threads(1)  # threads do not survive a fork
TEACHER = TimmTeacher(TeacherSpec("test_resnet", random_weights=0, num_classes=3, input_size=(64, 64)))


def extract(
    images: Path, store: Path, workers: int, begun: Event, extend: bool = False, held: Connection | None = None
) -> None:
    """Fill the store, whatever is there; tells `begun` when it begins. All its processes keep `held` open."""
    begun.set()
    options = JobOptions(shard_rows=2, batch_size=2, decoding_processes=workers, extend=extend)
    run_job(list_images(images), store, TEACHER, options)
