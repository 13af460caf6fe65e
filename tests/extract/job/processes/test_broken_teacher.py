"""An error that is the teacher's own, as of a GPU without memory: the job ends with it, and no process stays behind."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from extract.images.image_list import ImageList
from extract.own_classes.features import PooledFeatures
from extract.own_classes.fit import fit_head_file
from extract.settings import FitOptions
from extract.teacher.timm_teacher import TimmTeacher
from tests.extract.jobs import SPEC, run

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["extract.job.run"])


def break_teacher(*_: object, **__: object) -> None:
    raise RuntimeError("CUDA out of memory")


def job(images: ImageList, store: Path) -> None:
    teacher = TimmTeacher(SPEC)
    teacher.start = break_teacher  # type: ignore[assignment,method-assign]
    run(images, store, teacher, decoding_processes=2)


def fit(images: ImageList, head: Path) -> None:
    PooledFeatures.__call__ = break_teacher  # type: ignore[assignment,method-assign]
    nothing: Any = lambda *_: None  # noqa: E731
    options = FitOptions(decoding_processes=2, batch_size=2)
    fit_head_file(images, head, SPEC, options, on_progress=nothing, stop=lambda: False, say=nothing)


@pytest.mark.parametrize("broken", [job, fit])
def test_the_process_ends(broken: Callable[[ImageList, Path], None], images: ImageList, tmp_path: Path) -> None:
    child = FORKS.Process(target=broken, args=(images, tmp_path / "made"))
    child.start()
    child.join(60)
    try:
        assert child.exitcode == 1
    finally:
        child.kill()
