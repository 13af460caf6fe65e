"""Options of the jobs, each handed to its command as two values: a teacher's specification, and the job's options.

Imported by `tokenmix --help`, so nothing heavy here.
"""

from __future__ import annotations

import os
from dataclasses import fields
from functools import wraps
from typing import Any

import click

from extract.settings import DEFAULT_SHARD_ROWS, KINDS, FitOptions, ImportOptions, JobOptions, TeacherSpec
from extract.settings.check import CHOICES
from extract.settings.worker import Worker
from tokenmix_commands.grouped_help import Decorator
from tokenmix_commands.options.config_file import read_config
from tokenmix_commands.options.shared import (
    CLASS_MAP,
    CLASS_WEIGHTS,
    HEAD,
    IMAGES,
    KEYS,
    MAX_ERRORS,
    WORKER,
    Callback,
    map_option,
    run_option,
    sight_option,
    teacher_option,
    with_options,
)
from tokenmix_commands.options.values import (
    PATH,
    Range,
    image_size,
    input_scales,
    model_arguments,
    named_teachers,
)

_BACKBONE = [
    teacher_option("--teacher", required=True, metavar="NAME", shell_complete=named_teachers,
                   help="Any model of timm's, local-dir:PATH, hf-hub:NAME, or nfnet_f6, resnet101, resnet26, "
                   "efficientnet_lite0, saliency."),
    teacher_option("--pretrained", is_flag=True, help="Use timm's weights for this name."),
    teacher_option("--checkpoint", type=PATH, metavar="FILE",
                   help="Weights: .safetensors, or .pth (read as weights only)."),
    teacher_option("--random-weights", type=int, metavar="SEED",
                   help="No weights: for trying out, never for training."),
    teacher_option("--num-classes", type=click.IntRange(1), metavar="N", help="Outputs of the checkpoint's head."),
    teacher_option("--model-arg", "model_args", multiple=True, metavar="KEY=VALUE", callback=model_arguments,
                   help="Passed to timm; repeatable."),
    sight_option("--input-size", callback=image_size, metavar="PX|HxW", help="Instead of the model's own."),
    sight_option("--crop-mode", type=click.Choice(CHOICES["crop_mode"]), help="Instead of the model's own."),
    sight_option("--crop-pct", type=Range(0, 1, min_open=True), metavar="SHARE",
                 help="Of the input that is kept, from 0 to 1; instead of the model's own."),
]  # fmt: skip
_MAPS = [
    HEAD,
    map_option("--kind", type=click.Choice(KINDS), default=KINDS[0], show_default=True, help="What to store."),
    map_option("--top-k", type=click.IntRange(1), metavar="N", help="Kind topk: classes per token; default: 5."),
    map_option("--cam-stage", metavar="MODULE,...", help="Kind cam: default, the last ones from stride 8 on."),
    map_option("--scales", callback=input_scales, metavar="S,S", help="Kind cam: of the input's size, as 1,2."),
    map_option("--cam-grid", type=click.IntRange(2), metavar="N", help="Kind cam: at most N x N cells; default: 28."),
    map_option("--spread/--no-spread", default=None, help="Kind cam: over tokens that look alike; default: yes."),
    map_option("--rivals", type=click.IntRange(0), metavar="N",
               help="Kind cam: other classes that contest the label's evidence; default: 3."),
    map_option("--class-token", is_flag=True, help="Accept a class token's head on patch tokens: not exact."),
    map_option("--flip-average", is_flag=True, help="Average with the mirror image's; half the speed."),
]  # fmt: skip
_SHARD_SIZE = map_option("--shard-size", type=click.IntRange(1), default=DEFAULT_SHARD_ROWS, show_default=True,
                         metavar="N", help="Rows per file: what a killed run does again.")  # fmt: skip
_SHARDS = [
    map_option("--dtype", type=click.Choice(["float16", "float32", "uint8"]), default="float16", show_default=True,
               help="uint8: half of float16's bytes; kinds label, cam and activation."),
    _SHARD_SIZE,
]  # fmt: skip
_COMPILE = run_option("--compile", is_flag=True, help="torch.compile the teacher: a minute at start.")
_RUN: list[Decorator] = [
    run_option("--device", metavar="NAME", help="As torch names it; default: cuda where there is one, else cpu."),
    run_option("--amp", type=click.Choice(CHOICES["amp"]), default="none", show_default=True,
               help="Autocast of the teacher."),
    run_option("--batch-size", type=click.IntRange(1), default=32, show_default=True, metavar="N",
               help="Images per step of the teacher."),
    run_option("--workers", type=click.IntRange(0), default=min(4, os.cpu_count() or 1), metavar="N",
               help="Decoding processes; 0 decodes in this one. Default: the cores, at most 4."),
    click.option("--config", type=PATH, is_eager=True, expose_value=False, callback=read_config, metavar="FILE",
                 help='These options in JSON, {"batch-size": 64}, or .yaml; the command line wins.'),
]  # fmt: skip
_IMPORT = [
    map_option("--view", type=click.Choice(CHOICES["view"]), help="The teacher's; default: as published."),
    map_option("--crop-pct", type=Range(0, 1, min_open=True), default=1.0, show_default=True, metavar="SHARE",
               help="Of the teacher's input, as its recipe says."),
    map_option("--dtype", type=click.Choice(["float16", "float32"]), help="Default: as published."),
    _SHARD_SIZE,
    WORKER,
    MAX_ERRORS,
    *KEYS,
]  # fmt: skip


def job_options(command: Callback) -> Callback:
    """Options of `plan`, `extract` and `submit`, given as `teacher: TeacherSpec, options: JobOptions`."""

    @wraps(command)
    def with_job(
        *,
        dtype: str,
        shard_size: int,
        batch_size: int,
        workers: int,
        worker: str | None = None,
        max_errors: int | None = None,
        min_top1: float | None = None,
        extend: bool = False,
        input_key: str | None,
        target_key: str | None,
        **others: Any,
    ) -> None:
        spec, others = _take_teacher(others)
        options = JobOptions(
            dtype=dtype, shard_rows=shard_size, batch_size=batch_size, decoding_processes=workers,
            worker=_worker(worker), extend=extend, max_errors=max_errors, min_top1=min_top1,
            input_key=input_key, target_key=target_key,
        )  # fmt: skip
        command(teacher=spec, options=options, **others)

    given: list[Decorator] = [IMAGES, *_BACKBONE, *_MAPS, *_SHARDS, CLASS_MAP, *KEYS, *_RUN, _COMPILE]
    return with_options(given, with_job)


def fit_options(command: Callback) -> Callback:
    """Options of `fit-head`, given as `teacher: TeacherSpec, options: FitOptions`."""

    @wraps(command)
    def with_fit(
        *,
        class_weights: str,
        batch_size: int,
        workers: int,
        max_errors: int | None = None,
        input_key: str | None,
        target_key: str | None,
        **others: Any,
    ) -> None:
        spec, others = _take_teacher(others)
        options = FitOptions(
            class_weights=class_weights, batch_size=batch_size, decoding_processes=workers, max_errors=max_errors,
            input_key=input_key, target_key=target_key,
        )  # fmt: skip
        command(teacher=spec, options=options, **others)

    return with_options([IMAGES, *_BACKBONE, *KEYS, CLASS_WEIGHTS, *_RUN, MAX_ERRORS], with_fit)


def _take_teacher(values: dict[str, Any]) -> tuple[TeacherSpec, dict[str, Any]]:
    """The values that are fields of the specification, and the others."""
    values = {**values, "name": values["teacher"]}
    names = {field.name for field in fields(TeacherSpec)} & values.keys()
    others = {name: value for name, value in values.items() if name not in {*names, "teacher"}}
    return TeacherSpec(**{name: values[name] for name in names}), others


def import_options(command: Callback) -> Callback:
    """Options of `import`, given to the command as `options: ImportOptions`."""

    @wraps(command)
    def with_import(
        *,
        view: str | None,
        crop_pct: float,
        dtype: str | None,
        shard_size: int,
        worker: str | None,
        max_errors: int | None,
        input_key: str | None,
        target_key: str | None,
        **others: Any,
    ) -> None:
        options = ImportOptions(
            view, crop_pct, dtype, shard_size, _worker(worker), max_errors, input_key=input_key, target_key=target_key
        )
        command(options=options, **others)

    return with_options(_IMPORT, with_import)


def _worker(text: str | None) -> Worker:
    return Worker.parse(text) if text else Worker.from_environment()
