"""`--compile`, where there is a compiler and where there is none."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extract.errors import TeacherError
from extract.images.listing import list_images
from extract.job.run import run_job
from extract.settings import JobOptions, TeacherSpec
from extract.teacher.timm_teacher import TimmTeacher
from store import MapStore
from tests.extract.conftest import MakeFolder

SPEC: dict[str, Any] = dict(num_classes=2, input_size=(64, 64), random_weights=0)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch compiles for a CPU with a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of torch's own compiler
@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_compiled_maps_are_the_same(
    name: str, make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the job, with a last batch that is smaller."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    images = list_images(make_folder({"a": [f"{i}.jpg" for i in range(4)], "b": ["9.jpg"]}))
    for compiled in (False, True):
        teacher = TimmTeacher(TeacherSpec(name, compile=compiled, **SPEC))
        run_job(
            images, tmp_path / str(compiled), teacher, JobOptions(dtype="float32", decoding_processes=0, batch_size=3)
        )
    plain, fast = (MapStore(tmp_path / str(compiled)).read(range(5)) for compiled in (False, True))
    np.testing.assert_allclose(fast, plain, rtol=1e-4, atol=1e-5 * np.abs(plain).max())
    assert (tmp_path / "cache").exists(), "nothing was compiled"


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("/no/such/g++",))
    with pytest.raises(TeacherError, match="--compile: expected a compiler .*, found .*or leave it out"):
        TimmTeacher(TeacherSpec("test_resnet", compile=True, **SPEC))


def test_not_with_cam() -> None:
    with pytest.raises(TeacherError, match="--compile: expected another kind than cam"):
        TimmTeacher(TeacherSpec("test_resnet", compile=True, kind="cam", **SPEC))
