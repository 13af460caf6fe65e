"""Options that several commands share; imported by `tokenmix --help`, so nothing heavy here."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from extract.command_line.config_file import read_config
from extract.images.table_names import absolute_images

Command = Callable[..., None]
FOLDER = click.Path(path_type=Path)


def image_size(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """`448` or `448x320` (height x width) -> (height, width)."""
    if value is None:
        return None
    sides = value.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise click.BadParameter(f"{value!r} is neither a side in pixels nor HEIGHTxWIDTH", ctx, param)
    return int(sides[0]), int(sides[-1])


JOB_OPTIONS = [
    click.argument("images", type=FOLDER),
    click.option("--teacher", required=True, help="A timm model, hf-hub:NAME, local-dir:PATH, nfnet_f6, or saliency."),
    click.option("--pretrained", is_flag=True, help="Use timm's weights for this name."),
    click.option("--checkpoint", type=FOLDER, help="Weights: .safetensors, or .pth (read as weights only)."),
    click.option("--random-weights", type=int, metavar="SEED", help="No weights: for trying out, never for training."),
    click.option("--num-classes", type=click.IntRange(1), help="Classes of the checkpoint's head."),
    click.option("--model-arg", "model_args", multiple=True, metavar="KEY=VALUE", help="Passed to timm; repeatable."),
    click.option("--class-map", type=FOLDER, help="Text file: one folder name per line; line number = class index."),
    click.option("--input-size", callback=image_size, metavar="PX|HxW", help="Instead of the model's own."),
    click.option("--crop-mode", type=click.Choice(["center", "squash", "border"]), help="Instead of the model's own."),
    click.option("--crop-pct", type=click.FloatRange(0, 1, min_open=True), help="Instead of the model's own."),
    click.option("--kind", type=click.Choice(["label", "topk", "cam", "activation", "features"]), default="label",
                 show_default=True, help="What to store per image."),
    click.option("--top-k", type=click.IntRange(1), help="Kind topk: classes per token; default: 5."),
    click.option("--cam-stage", metavar="MODULE", help="Kind cam: default, the last stage but one."),
    click.option("--class-token", is_flag=True, help="Accept a class token's head on patch tokens: not exact."),
    click.option("--flip-average", is_flag=True, help="Average with the mirror image's; half the speed."),
    click.option("--dtype", type=click.Choice(["float16", "float32", "uint8"]), default="float16", show_default=True,
                 help="uint8: half of float16's bytes; kinds label, cam and activation."),
    click.option("--shard-size", type=click.IntRange(1), default=4096, show_default=True, help="Rows per shard."),
    click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True),
    click.option("--workers", type=click.IntRange(0), default=min(4, os.cpu_count() or 1), help="Decoding processes."),
    click.option("--device", default=None, help="As torch names it; default: cuda where there is one, else cpu."),
    click.option("--amp", type=click.Choice(["none", "bf16", "fp16"]), default="none", help="Autocast of the teacher."),
    click.option("--compile", is_flag=True, help="torch.compile the teacher: a minute at start."),
    click.option("--config", type=FOLDER, is_eager=True, expose_value=False, callback=read_config, metavar="FILE",
                 help='JSON of these options, {"batch-size": 64}; the command line wins.'),
]  # fmt: skip


IMPORT_OPTIONS = [
    click.option("--view", type=click.Choice(["center", "squash"]), help="The teacher's; default: as published."),
    click.option("--crop-pct", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True),
    click.option("--class-map", type=FOLDER, help="Text file: one folder name per line; line number = class index."),
    click.option("--dtype", type=click.Choice(["float16", "float32"]), help="Default: as published."),
    click.option("--shard-size", "shard_rows", type=click.IntRange(1), default=4096, show_default=True),
    click.option("--worker", metavar="I/N", help="Do the share of worker I of N; default: as `extract`."),
]  # fmt: skip

STORE = click.argument("store", type=FOLDER)
MAX_ERRORS = click.option(
    "--max-errors", type=click.IntRange(0), help="Unreadable images to accept; default: 0.1 % of the rows."
)

EXTEND = click.option("--extend", is_flag=True, help="Add shards for images that came since the store was made.")

SLURM_OPTIONS = [
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
    click.option("--command", metavar="TEXT", help="Instead of this `tokenmix`: 'apptainer exec --nv X tokenmix'."),
    click.option("--log-dir", type=FOLDER, help="Default: STORE.logs, beside the store."),
    click.option("--sbatch-arg", "sbatch_args", multiple=True, metavar="TEXT", help="Any other, as --exclude=n7."),
]  # fmt: skip


def job_options(command: Command) -> Command:
    """The options that `plan`, `extract` and `submit` share."""
    return _with(JOB_OPTIONS, command)


def import_options(command: Command) -> Command:
    """The options of `import`."""
    return _with(IMPORT_OPTIONS, command)


def slurm_options(command: Command) -> Command:
    """The options of `submit` that are Slurm's."""
    return _with(SLURM_OPTIONS, command)


def given_arguments(ctx: click.Context, leave_out: Container[str]) -> list[str]:
    """The command line again, in absolute paths: what the user gave, here or by --config, but for `leave_out`."""
    parts: list[str] = []
    for parameter in ctx.command.params:
        name = parameter.name or ""
        given = name in ctx.params and ctx.get_parameter_source(name) is not ParameterSource.DEFAULT
        if given and name not in leave_out:
            value = ctx.params[name]
            for one in value if parameter.multiple else [value]:
                parts += _spelled(parameter, one)
    return parts


def _spelled(parameter: click.Parameter, value: Any) -> list[str]:
    if isinstance(value, Path):
        value = absolute_images(value) if parameter.name == "images" else value.absolute()
    if isinstance(value, tuple):  # --input-size
        value = "x".join(map(str, value))
    if isinstance(parameter, click.Argument):
        return [str(value)]
    if isinstance(value, bool):
        return [parameter.opts[0]] if value else []
    return [parameter.opts[0], str(value)]


def _with(options: Sequence[Callable[[Command], Command]], command: Command) -> Command:
    for option in reversed(options):
        command = option(command)
    return command
