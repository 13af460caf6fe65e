"""A small job: a teacher with random weights on 18 images in shards of five."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from extract.images.image_list import ImageList
from extract.job.progress import Report
from extract.job.run import run_job
from extract.settings import JobOptions, TeacherSpec
from extract.teacher.timm_teacher import TimmTeacher

SPEC = TeacherSpec("test_resnet", random_weights=0, num_classes=3, input_size=(64, 64), crop_mode="center")
OPTIONS = JobOptions(shard_rows=5, batch_size=2, decoding_processes=0)
NAMES = {name: [f"{i}.jpg" for i in range(count)] for name, count in (("cat", 6), ("dog", 5), ("eel", 7))}


def shard_bytes(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(store.glob("shard-*.h5"))}


def run(images: ImageList, store: Path, teacher: TimmTeacher, **kwargs: Any) -> Report:
    options = replace(OPTIONS, **{k: v for k, v in kwargs.items() if hasattr(OPTIONS, k)})
    return run_job(images, store, teacher, options, **{k: v for k, v in kwargs.items() if not hasattr(OPTIONS, k)})
