"""The job as a Slurm array: one array task is one worker. Rendering is a pure function of the options."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from extract.errors import ExtractError
from extract.settings.check import Checked

# What of a job's environment would reach the jobs that are submitted from inside it, and is not theirs.
_OF_THE_JOB_AROUND = ("CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")
_FINDS_THE_CLUSTER = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT")
# Variables that would send output elsewhere, or make sbatch wait for the end of the array.
_UNWANTED = ("SBATCH_ERROR", "SBATCH_INPUT", "SBATCH_WAIT")
# Several spellings of one request: sbatch refuses some pairs, and adds others up.
_SPELLINGS = {
    ("--mem", "--mem-per-cpu", "--mem-per-gpu"): ("SBATCH_MEM_PER_NODE", "SBATCH_MEM_PER_CPU", "SBATCH_MEM_PER_GPU"),
    ("--gpus", "--gpus-per-node", "--gpus-per-task", "--gres"): (
        "SBATCH_GPUS", "SBATCH_GPUS_PER_NODE", "SBATCH_GPUS_PER_TASK", "SBATCH_GRES",
    ),
    ("--cpus-per-task", "--cpus-per-gpu"): ("SBATCH_CPUS_PER_TASK", "SBATCH_CPUS_PER_GPU"),
}  # fmt: skip

# What Slurm is told about the array, where the option is given.
_DIRECTIVES = ("partition", "account", "qos", "time", "gpus", "cpus_per_task", "mem", "constraint")

_DIRECTIVE = "#SBATCH "
_SCRIPT = """\
#!/bin/bash
{directives}

# Variables SBATCH_*, which some sites set, override these lines, so `tokenmix submit` repeats them on sbatch's command
# line. By hand: sed -n 's/^#SBATCH //p' FILE | xargs sh -c 'sbatch "$@" FILE' sbatch

# Before the time limit and at preemption Slurm warns this shell, which passes it on. A finished shard is kept.
child= warned=
trap 'warned=yes; [ -z "$child" ] || kill -USR1 "$child"' USR1
trap '[ -z "$child" ] || kill -TERM "$child"' TERM

set -e
{setup}
set +e

status=75
if [ -z "$warned" ]; then
    worker="$((SLURM_ARRAY_TASK_ID + {first}))/{total}"
    {command} --worker "$worker" &
    child=$!
    # A signal ends `wait` while the child still runs, so wait again.
    for _ in 1 2 3 4 5; do
        wait "$child"
        status=$?
        [ "$status" -le 128 ] && break
    done
fi

# 75: stopped before the end. Above 128: killed, perhaps for its memory; unless warned before, requeued 3 times at most.
again=no
[ "$status" -eq 75 ] && again=yes
[ "$status" -gt 128 ] && [ -n "$warned" -o "${{SLURM_RESTART_COUNT:-0}}" -lt 3 ] && again=yes
# A cancelled job is no longer running.
unset "${{!SQUEUE_@}}"  # filters of the user's own
if [ "$again" = yes ] && [ "$(squeue --noheader --jobs "$SLURM_JOB_ID" --format %T)" = RUNNING ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
"""


@dataclass(frozen=True)
class SlurmOptions(Checked):
    """What `tokenmix submit` asks of Slurm; None leaves it to the cluster's defaults."""

    tasks: int
    log_dir: Path | None = None  # None: STORE.logs, beside the store
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: str | None = None
    gpus: str | None = None
    cpus_per_task: int | None = None
    mem: str | None = None
    constraint: str | None = None
    parallel: int | None = None  # array tasks that may run at the same time
    warn_s: int = 120  # before the time limit
    setup: tuple[str, ...] = ()  # lines of shell before the command
    command: str | None = None  # None: this very `tokenmix`; perhaps behind a container's
    sbatch_args: tuple[str, ...] = ()


def this_command() -> str:
    """How to call the very `tokenmix` that runs now."""
    script = Path(sys.executable).with_name("tokenmix")
    return shlex.quote(str(script)) if script.exists() else "tokenmix"


def log_folder(options: SlurmOptions, store: Path) -> Path:
    """Where the tasks' logs go, as an absolute path."""
    return (options.log_dir or Path(f"{store.absolute()}.logs")).absolute()


def job_name(store: Path) -> str:
    """Of all arrays of one store, on any day: by it `tokenmix status` finds them."""
    path = str(store.absolute())
    name = re.sub(r"[^\w.-]", "-", store.name)
    return f"tokenmix-{name}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"


def render_arrays(options: SlurmOptions, store: Path, arguments: Sequence[str], limit: int | None = None) -> list[str]:
    """One script, or several where `limit`, the cluster's MaxArraySize, is below the number of tasks.

    `arguments` are those of `tokenmix extract`. The worker is given explicitly, so that a task keeps its share
    when some tasks of an array are submitted again by hand.
    """
    step = min(limit or options.tasks, options.tasks)
    starts = range(0, options.tasks, step)
    return [_render(options, store, arguments, first, min(step, options.tasks - first)) for first in starts]


def _render(options: SlurmOptions, store: Path, arguments: Sequence[str], first: int, count: int) -> str:
    command = " ".join([options.command or this_command(), "extract", *map(shlex.quote, arguments)])
    return _SCRIPT.format(
        directives="\n".join(f"{_DIRECTIVE}{line}" for line in _directives(options, store, count)),
        setup="\n".join(options.setup) or ":",
        first=first,
        total=options.tasks,
        command=command,
    )


def _directives(options: SlurmOptions, store: Path, count: int) -> list[str]:
    at_once = f"%{options.parallel}" if options.parallel else ""
    given = [(name.replace("_", "-"), getattr(options, name)) for name in _DIRECTIVES]
    return [
        f"--job-name={job_name(store)}",
        f"--array=0-{count - 1}{at_once}",
        "--nodes=1",
        "--ntasks=1",
        *(f"--{name}={value}" for name, value in given if value is not None),
        f"--signal=B:USR1@{options.warn_s}",
        "--requeue",
        "--open-mode=append",
        f"--output={_directive_path(log_folder(options, store), '%x-%A_%a.log')}",
        *options.sbatch_args,
    ]


def _directive_path(folder: Path, pattern: str) -> str:
    """As sbatch reads it: % begins a pattern, blanks end a value unless quoted, and a line break ends it."""
    if re.search(r"[\n\"\\]", str(folder)):
        raise ExtractError(f"--log-dir {str(folder)!r}: expected a path without quotes and line breaks")
    path = f"{folder}/".replace("%", "%%") + pattern
    return f'"{path}"' if re.search(r"\s", path) else path


def arguments_of(script: str) -> list[str]:
    """The options that a script gives sbatch, for its command line, whose word is the last.

    Raises ExtractError where sbatch could not read them.
    """
    lines = itertools.takewhile(lambda line: line.startswith("#"), script.splitlines())
    given = [line.removeprefix(_DIRECTIVE) for line in lines if line.startswith(_DIRECTIVE)]
    try:
        return [word for line in given for word in shlex.split(line)]
    except ValueError as error:
        raise ExtractError(f"--sbatch-arg: expected an option with its quotes closed, found {error}") from error


def environment_for(arguments: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """What sbatch is to find in its environment, and the jobs in theirs.

    The site's defaults stay, SBATCH_PARTITION for example. What goes: the variables of a job that `submit` is called
    in, other spellings of what `arguments` give, and what would lead output elsewhere.
    """
    named = {word.partition("=")[0] for word in arguments}
    dropped = set(_UNWANTED)
    if "SLURM_JOB_ID" in environ:
        dropped.update(_OF_THE_JOB_AROUND)
    for options, variables in _SPELLINGS.items():
        if named.intersection(options):
            dropped.update(variables)
    kept = {name: value for name, value in environ.items() if name not in dropped}
    return {name: value for name, value in kept.items() if not name.startswith("SLURM") or name in _FINDS_THE_CLUSTER}


def max_array_size() -> int | None:
    """The cluster's MaxArraySize; None where no Slurm answers."""
    if shutil.which("scontrol") is None:
        return None
    config = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True).stdout
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", config, re.MULTILINE)
    return int(found[1]) if found else None


def submit_arrays(scripts: Sequence[str], log_dir: Path) -> list[str]:
    """Give the scripts to sbatch and return the array job ids. Raises ExtractError with what sbatch said."""
    if shutil.which("sbatch") is None:
        raise ExtractError("sbatch: expected Slurm's command, found none; submit from a login node, or use --dry-run")
    log_dir.mkdir(parents=True, exist_ok=True)
    jobs: list[str] = []
    for script in scripts:
        arguments = arguments_of(script)
        command, environ = ["sbatch", "--parsable", *arguments], environment_for(arguments, os.environ)
        done = subprocess.run(command, input=script, capture_output=True, text=True, env=environ)
        if done.returncode:
            before = f"arrays {', '.join(jobs)} were submitted" if jobs else "nothing was submitted"
            raise ExtractError(f"sbatch: {done.stderr.strip()}; {before}")
        jobs.append(done.stdout.strip().partition(";")[0])
    return jobs
