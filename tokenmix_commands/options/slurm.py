"""Options of `submit` that are Slurm's."""

from __future__ import annotations

from functools import wraps
from pathlib import Path
from typing import Any

import click

from extract.job.slurm import SlurmOptions
from tokenmix_commands.grouped_help import options_under
from tokenmix_commands.options.shared import Callback, with_options
from tokenmix_commands.options.values import PATH

_slurm = options_under("Slurm")
_SLURM_OPTIONS = [
    _slurm("--tasks", type=click.IntRange(1), required=True, metavar="N", help="Workers: the length of the array."),
    _slurm("--parallel", type=click.IntRange(1), metavar="N", help="Of these at the same time."),
    _slurm("--partition", metavar="NAME", help="Where the tasks run; default: the cluster's."),
    _slurm("--account", metavar="NAME", help="Whom they are charged to."),
    _slurm("--qos", metavar="NAME", help="Their quality of service."),
    _slurm("--time", metavar="[D-]HH:MM:SS", help="Limit per task; whatever is left then is requeued."),
    _slurm("--gpus", metavar="[TYPE:]N", help="Per task."),
    _slurm("--cpus-per-task", type=click.IntRange(1), metavar="N", help="As many as decoding processes, and one."),
    _slurm("--mem", metavar="SIZE", help="Per task."),
    _slurm("--constraint", metavar="TEXT", help="Features that the nodes must have."),
    _slurm("--warn", "warn_s", type=click.IntRange(1), default=120, show_default=True, metavar="SECONDS",
                 help="Before the time limit: longer than a few batches take."),
    _slurm("--setup", multiple=True, metavar="LINE", help="Shell line before the command; repeatable."),
    _slurm("--command", "command_text", metavar="TEXT",
                 help="Instead of this `tokenmix`: 'apptainer exec --nv X tokenmix'."),
    _slurm("--log-dir", type=PATH, help="Default: STORE.logs, beside the store."),
    _slurm("--sbatch-arg", "sbatch_args", multiple=True, metavar="TEXT", help="Any other, as --exclude=n7."),
]  # fmt: skip


def slurm_options(command: Callback) -> Callback:
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

    return with_options(_SLURM_OPTIONS, with_slurm)
