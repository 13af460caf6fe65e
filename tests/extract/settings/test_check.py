"""Settings given from Python: what means the same is taken, what does not is refused where it is made."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import extract
from extract import FitOptions, ImportOptions, JobOptions, SlurmOptions, TeacherSpec

TEACHER: Callable[..., Any] = lambda **given: TeacherSpec("resnet26", **given)  # noqa: E731
SLURM: Callable[..., Any] = lambda **given: SlurmOptions(**{"tasks": 1, **given})  # noqa: E731


@pytest.mark.parametrize(
    ("make", "name", "value", "why"),
    [
        (TEACHER, "num_classes", "10", "TeacherSpec.num_classes: expected int | None, found '10', a str"),
        (TEACHER, "num_classes", 10.0, "found 10.0, a float"),
        (TEACHER, "num_classes", True, "found True, a bool"),
        (TEACHER, "pretrained", "yes", "expected bool, found 'yes'"),
        (TEACHER, "pretrained", 1, "expected bool, found 1"),
        (TEACHER, "input_size", 224, "expected tuple[int, int] | None, found 224, a int"),
        (TEACHER, "input_size", (3, 224, 224), "found (3, 224, 224)"),
        (TEACHER, "input_size", ("224", "224"), "found"),
        (TEACHER, "checkpoint", 3, "expected Path | None, found 3"),
        (TEACHER, "model_args", ["a=1"], "expected dict, found"),
        (TEACHER, "scales", 1.5, "expected tuple[float, ...] | None"),
        (TEACHER, "device", 0, "expected str | None, found 0"),
        (JobOptions, "batch_size", "8", "JobOptions.batch_size: expected int, found '8'"),
        (JobOptions, "batch_size", None, "expected int, found None"),
        (JobOptions, "decoding_processes", 1.5, "found 1.5"),
        (JobOptions, "worker", "0/2", "expected Worker, found '0/2'"),
        (FitOptions, "max_errors", "3", "FitOptions.max_errors"),
        (ImportOptions, "crop_pct", "0.9", "ImportOptions.crop_pct: expected float"),
        (SLURM, "tasks", "4", "SlurmOptions.tasks"),
        (SLURM, "setup", "module load x", "expected tuple[str, ...], found 'module load x'"),
    ],
)
def test_another_type_is_named(make: Callable[..., Any], name: str, value: object, why: str) -> None:
    with pytest.raises(TypeError) as refused:
        make(**{name: value})
    assert why in str(refused.value)


@pytest.mark.parametrize(
    ("make", "name", "value", "why"),
    [
        (JobOptions, "batch_size", 0, "JobOptions.batch_size: expected at least 1, found 0"),
        (
            TEACHER,
            "crop_mode",
            "centre",
            "TeacherSpec.crop_mode: expected one of center, squash, border, found 'centre'",
        ),
        (TEACHER, "crop_pct", 0, "TeacherSpec.crop_pct: expected more than 0, found 0"),
        (TEACHER, "amp", "bf16 ", "expected one of none, bf16, fp16, found 'bf16 '"),
        (FitOptions, "class_weights", "equal", "expected one of balanced, none, found 'equal'"),
        (ImportOptions, "view", "whole", "expected one of center, squash, found 'whole'"),
        (JobOptions, "shard_rows", -1, "at least 1"),
        (JobOptions, "decoding_processes", -1, "at least 0"),
        (JobOptions, "min_top1", 50, "from 0 to 1, found 50"),
        (TEACHER, "input_size", (224, 0), "at least 1"),
        (SLURM, "tasks", 0, "at least 1"),
    ],
)
def test_a_number_out_of_range_is_named(make: Callable[..., Any], name: str, value: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        make(**{name: value})


def test_what_means_the_same_is_the_same() -> None:
    given = TEACHER(
        checkpoint="w.pth", num_classes=np.int64(3), input_size=[64, 96], crop_pct=1, scales=[1, np.float32(2)]
    )
    same = TeacherSpec(
        "resnet26", checkpoint=Path("w.pth"), num_classes=3, input_size=(64, 96), crop_pct=1.0, scales=(1.0, 2.0)
    )
    assert given == same
    for name in ("num_classes", "crop_pct", "input_size", "checkpoint"):
        assert type(getattr(given, name)) is type(getattr(same, name))


def test_calls_name_what_they_are_given_in_the_place_of_settings(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"expected extract.TeacherSpec\(...\), found 'resnet26'"):
        extract.run(tmp_path, tmp_path / "../maps", "resnet26")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"expected extract.JobOptions\(...\), found {}"):
        extract.plan(tmp_path, TeacherSpec("resnet26"), {})  # type: ignore[arg-type]
    with pytest.raises(extract.ExtractError, match="expected one of the formats tokenlabeling, relabel, found 'pt'"):
        extract.import_maps("pt", tmp_path, tmp_path, tmp_path / "../maps")
