"""Options that several commands share, each handed to the command as one value: a spec, options, Slurm's options.

Imported by `tokenmix --help`, so nothing heavy here.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Any

import click

from extract.command_line.config_file import read_config
from extract.job.slurm import SlurmOptions
from extract.settings import DEFAULT_SHARD_ROWS, KINDS, FitOptions, ImportOptions, JobOptions, TeacherSpec
from extract.settings.check import CHOICES
from extract.settings.worker import Worker

Command = Callable[..., None]
PATH = click.Path(path_type=Path)
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".pdf")  # in full colour by Pillow


class Range(click.FloatRange):
    """click's own takes NaN for a number of any range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number; BadParameter for any other."""
        number = super().convert(value, param, ctx)
        if number != number:
            self.fail(f"{value!r} is not in the range {self._describe_range()}.", param, ctx)
        return number


def image_size(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """`448` or `448x320` (height x width) -> (height, width)."""
    if value is None:
        return None
    sides = value.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdecimal() and int(side) > 0 for side in sides):
        raise click.BadParameter(f"{value!r} is neither a side in pixels nor HEIGHTxWIDTH", ctx, param)
    return int(sides[0]), int(sides[-1])


def picture_path(ctx: click.Context, param: click.Parameter, value: Path) -> Path:
    """A file that a picture can be written to, refused before any work is done."""
    if value.suffix.lower() not in PICTURES:
        raise click.BadParameter(
            f"{str(value)!r}: expected a name that ends in {', '.join(PICTURES)}, found {value.suffix or 'no ending'}",
            ctx, param,
        )  # fmt: skip
    if not os.path.isdir(value.parent) or os.path.isdir(value):  # unlike pathlib's, False for a name that is too long
        found = "a folder of that name" if os.path.isdir(value) else f"no folder {str(value.parent)!r}"
        raise click.BadParameter(f"{str(value)!r}: expected a file in a folder, found {found}", ctx, param)
    return value


def even(ctx: click.Context, param: click.Parameter, value: int) -> int:
    """timm's mixing pairs the images of a batch."""
    if value % 2:
        raise click.BadParameter(f"expected an even number, for images are mixed in pairs, found {value}", ctx, param)
    return value


def input_scales(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """`1,1.5` -> (1.0, 1.5)."""
    if value is None:
        return None
    try:
        scales = tuple(float(part) for part in value.split(","))
    except ValueError:
        scales = ()
    if not scales or not all(0.1 <= scale <= 10 for scale in scales) or len(set(scales)) < len(scales):
        raise click.BadParameter(f"{value!r} is no list of different scales from 0.1 to 10", ctx, param)
    return scales


def model_arguments(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, Any]:
    """`key=value` each -> {key: value}; a value is a Python literal, or else the text itself."""
    found: dict[str, Any] = {}
    for text in values:
        key, sep, value = text.partition("=")
        if not sep or not key.isidentifier():
            raise click.BadParameter(f"{text!r} is not KEY=VALUE", ctx, param)
        try:
            found[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[key] = value
    return found


STORE = click.argument("store", type=PATH)
IMAGES = click.argument("images", type=PATH)
CLASS_MAP = click.option("--class-map", type=PATH, metavar="FILE",
                         help="Which output of the teacher shows each class: rows `name,output`, or one name per line, "
                         "whose number is the output. Not needed for WordNet ids and class names.")  # fmt: skip
WORKER = click.option("--worker", metavar="I/N",
                      help="Do the share of worker I of N; default: torchrun's, Slurm's, or 0/1.")  # fmt: skip
MAX_ERRORS = click.option("--max-errors", type=click.IntRange(0),
                          help="Unreadable images to accept; default: 0.1 % of the rows.")  # fmt: skip
MIN_TOP1 = click.option("--min-top1", type=Range(0, 1), metavar="SHARE",
                        help="Fail below this share of right predictions; stop early below half of it.")  # fmt: skip
CLASS_WEIGHTS = click.option("--class-weights", type=click.Choice(CHOICES["class_weights"]), default="balanced",
                             show_default=True, help="Every class counts the same, or every image.")  # fmt: skip
EXTEND = click.option("--extend", is_flag=True, help="Add shards for images that came since the store was made.")

HEAD = click.option("--head", type=PATH, metavar="FILE",
                    help="Of `fit-head`, for your own classes: in the place of the teacher's own.")  # fmt: skip

_KEY_OPTIONS = [
    click.option("--input-key", metavar="COLUMN|SUFFIXES",
                 help="As timm's: images' column of hfds/, default image; elsewhere, their suffixes: 'jpg;png;gif'."),
    click.option("--target-key", metavar="COLUMN",
                 help="As timm's: labels' column of hfds/, default label; of wds/, a field of .json."),
]  # fmt: skip
_BACKBONE_OPTIONS = [
    click.option("--teacher", required=True, help="A timm model, hf-hub:NAME, local-dir:PATH, a preset, or saliency."),
    click.option("--pretrained", is_flag=True, help="Use timm's weights for this name."),
    click.option("--checkpoint", type=PATH, help="Weights: .safetensors, or .pth (read as weights only)."),
    click.option("--random-weights", type=int, metavar="SEED", help="No weights: for trying out, never for training."),
    click.option("--num-classes", type=click.IntRange(1), help="Outputs of the checkpoint's head."),
    click.option("--model-arg", "model_args", multiple=True, metavar="KEY=VALUE", callback=model_arguments,
                 help="Passed to timm; repeatable."),
    click.option("--input-size", callback=image_size, metavar="PX|HxW", help="Instead of the model's own."),
    click.option("--crop-mode", type=click.Choice(CHOICES["crop_mode"]), help="Instead of the model's own."),
    click.option("--crop-pct", type=Range(0, 1, min_open=True), help="Instead of the model's own."),
    click.option("--device", help="As torch names it; default: cuda where there is one, else cpu."),
    click.option("--amp", type=click.Choice(CHOICES["amp"]), default="none", help="Autocast of the teacher."),
]  # fmt: skip
_MAP_OPTIONS = [
    HEAD,
    click.option("--kind", type=click.Choice(KINDS), default=KINDS[0], show_default=True, help="What to store."),
    click.option("--top-k", type=click.IntRange(1), help="Kind topk: classes per token; default: 5."),
    click.option("--cam-stage", metavar="MODULE,...", help="Kind cam: default, the last stages from stride 8 on."),
    click.option("--scales", callback=input_scales, metavar="S,S", help="Kind cam: of the input's size, as 1,2."),
    click.option("--class-token", is_flag=True, help="Accept a class token's head on patch tokens: not exact."),
    click.option("--flip-average", is_flag=True, help="Average with the mirror image's; half the speed."),
    click.option("--compile", is_flag=True, help="torch.compile the teacher: a minute at start."),
]  # fmt: skip
_RUN_OPTIONS = [
    click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True),
    click.option("--workers", type=click.IntRange(0), default=min(4, os.cpu_count() or 1), help="Decoding processes."),
    click.option("--config", type=PATH, is_eager=True, expose_value=False, callback=read_config, metavar="FILE",
                 help='These options in JSON, {"batch-size": 64}, or .yaml; the command line wins.'),
]  # fmt: skip
_SHARD_OPTIONS = [
    click.option("--dtype", type=click.Choice(["float16", "float32", "uint8"]), default="float16", show_default=True,
                 help="uint8: half of float16's bytes; kinds label, cam and activation."),
    click.option("--shard-size", type=click.IntRange(1), default=DEFAULT_SHARD_ROWS, show_default=True,
                 help="Rows per shard."),
]  # fmt: skip
_IMPORT_OPTIONS = [
    click.option("--view", type=click.Choice(CHOICES["view"]), help="The teacher's; default: as published."),
    click.option("--crop-pct", type=Range(0, 1, min_open=True), default=1.0, show_default=True),
    click.option("--dtype", type=click.Choice(["float16", "float32"]), help="Default: as published."),
    click.option("--shard-size", type=click.IntRange(1), default=DEFAULT_SHARD_ROWS, show_default=True),
    WORKER,
    MAX_ERRORS,
    *_KEY_OPTIONS,
]  # fmt: skip
_SLURM_OPTIONS = [
    click.option("--tasks", type=click.IntRange(1), required=True, help="Workers: the length of the array."),
    click.option("--parallel", type=click.IntRange(1), help="Of these at the same time."),
    click.option("--partition"),
    click.option("--account"),
    click.option("--qos"),
    click.option("--time", metavar="[D-]HH:MM:SS", help="Limit per task; whatever is left then is requeued."),
    click.option("--gpus", metavar="[TYPE:]N", help="Per task."),
    click.option("--cpus-per-task", type=click.IntRange(1), help="As many as decoding processes, and one."),
    click.option("--mem", metavar="SIZE", help="Per task."),
    click.option("--constraint"),
    click.option("--warn", "warn_s", type=click.IntRange(1), default=120, show_default=True, metavar="SECONDS",
                 help="Before the time limit: longer than a few batches take."),
    click.option("--setup", multiple=True, metavar="LINE", help="Shell line before the command; repeatable."),
    click.option("--command", "command_text", metavar="TEXT",
                 help="Instead of this `tokenmix`: 'apptainer exec --nv X tokenmix'."),
    click.option("--log-dir", type=PATH, help="Default: STORE.logs, beside the store."),
    click.option("--sbatch-arg", "sbatch_args", multiple=True, metavar="TEXT", help="Any other, as --exclude=n7."),
]  # fmt: skip


def job_options(command: Command) -> Command:
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

    given = [IMAGES, *_BACKBONE_OPTIONS, *_MAP_OPTIONS, CLASS_MAP, *_KEY_OPTIONS, *_SHARD_OPTIONS, *_RUN_OPTIONS]
    return _with(given, with_job)


def fit_options(command: Command) -> Command:
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

    return _with([IMAGES, *_BACKBONE_OPTIONS, CLASS_WEIGHTS, *_KEY_OPTIONS, *_RUN_OPTIONS, MAX_ERRORS], with_fit)


def _take_teacher(values: dict[str, Any]) -> tuple[TeacherSpec, dict[str, Any]]:
    """The values that are fields of the specification, and the others."""
    values = {**values, "name": values["teacher"]}
    names = {field.name for field in fields(TeacherSpec)} & values.keys()
    others = {name: value for name, value in values.items() if name not in {*names, "teacher"}}
    return TeacherSpec(**{name: values[name] for name in names}), others


def import_options(command: Command) -> Command:
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

    return _with(_IMPORT_OPTIONS, with_import)


def slurm_options(command: Command) -> Command:
    """Options of `submit` that are Slurm's, given to the command as `slurm: SlurmOptions`."""

    @wraps(command)
    def with_slurm(
        *,
        tasks: int,
        parallel: int | None,
        partition: str | None,
        account: str | None,
        qos: str | None,
        time: str | None,
        gpus: str | None,
        cpus_per_task: int | None,
        mem: str | None,
        constraint: str | None,
        warn_s: int,
        setup: tuple[str, ...],
        command_text: str | None = None,
        log_dir: Path | None,
        sbatch_args: tuple[str, ...],
        **others: Any,
    ) -> None:
        slurm = SlurmOptions(
            tasks=tasks, log_dir=log_dir, partition=partition, account=account, qos=qos, time=time, gpus=gpus,
            cpus_per_task=cpus_per_task, mem=mem, constraint=constraint, parallel=parallel, warn_s=warn_s,
            setup=setup, command=command_text, sbatch_args=sbatch_args,
        )  # fmt: skip
        command(slurm=slurm, **others)

    return _with(_SLURM_OPTIONS, with_slurm)


def _worker(text: str | None) -> Worker:
    return Worker.parse(text) if text else Worker.from_environment()


def _with(options: Sequence[Callable[[Command], Command]], command: Command) -> Command:
    for option in reversed(options):
        command = option(command)
    return command
