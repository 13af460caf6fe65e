"""Arms x seeds, for hours: the same command goes on where it was stopped, and a kill costs the runs in flight only.

    python -m recipes.ablation.run FOLDER --arms main --seeds 5 --processes 2
    python -m recipes.ablation.report FOLDER -o docs/results.md

Needs the stamps of Debian's tuxpaint-stamps-default, see recipes/cut_outs. Start it from a checkout that nobody edits:
runs of other code are kept apart.
"""

from __future__ import annotations

import multiprocessing
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import timedelta
from itertools import product
from pathlib import Path

import click
import torch

from extract.errors import ExtractError
from recipes.ablation.arms import ARMS, MAIN
from recipes.ablation.data import Data, cut_outs, prepare_stores
from recipes.ablation.log import AblationError, Experiment, Record, Task, machine, open_experiment, write_json
from recipes.ablation.training import STUDENTS, Schedule, train
from store import StoreError


def tasks_of(students: Sequence[str], arms: Sequence[str], seeds: int) -> list[Task]:
    """All runs, seed by seed, so that whenever it is stopped arms have the same seeds, but for the last."""
    return [
        Task(STUDENTS[student], name, ARMS[name], seed)
        for seed in range(seeds)
        for name in arms
        for student in students
        if STUDENTS[student].fits(ARMS[name])
    ]


@dataclass(frozen=True)
class Runner:
    """Makes and writes one run, in any process."""

    experiment: Experiment
    data: Data
    schedule: Schedule
    command: str
    device: str = "cpu"

    def __call__(self, task: Task) -> Record:
        """The record that was written."""
        started = time.monotonic()
        history = train(self.data, task.student, task.arm, task.seed, self.schedule, self.device).history
        record = {
            "student": task.student.name, "arm": task.name, "seed": task.seed, "top1": history[-1]["top1"],
            "seconds": round(time.monotonic() - started, 1), "history": history, "settings": task.settings(self.data),
            "shared": self.experiment.shared, "machine": machine(), "command": self.command,
        }  # fmt: skip
        write_json(self.experiment.path(task), record)
        return record


def run(runner: Runner, tasks: Sequence[Task], processes: int, say: Callable[[str], object]) -> int:
    """Make the runs that are not there yet; returns how many. Raises AblationError, before any, for changed arms."""
    missing = [task for task in tasks if not runner.experiment.finished(task, runner.data)]
    say(f"{runner.experiment.folder}: {len(tasks) - len(missing)} of {len(tasks)} runs are there")
    for other in sorted(runner.experiment.folder.parent.iterdir()):
        if other != runner.experiment.folder:
            say(f"{other}: {len(list(other.glob('*/*.json')))} runs of other settings or other code, kept apart")
    started = time.monotonic()
    for done, record in enumerate(_records(runner, missing, processes), 1):
        left = (time.monotonic() - started) / done * (len(missing) - done)
        say(
            f"{done}/{len(missing)} {record['student']}, {record['arm']}, seed {record['seed']}: "
            f"top-1 {record['top1']:.2%}, {record['seconds']:.0f} s; {timedelta(seconds=round(left))} left"
        )
    return len(missing)


def _records(runner: Runner, tasks: Sequence[Task], processes: int) -> Iterator[Record]:
    """As they get done, each by one thread."""
    if processes == 1:
        _one_thread()
        yield from map(runner, tasks)
        return
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=spawn, initializer=_one_thread)
    try:
        for future in as_completed([pool.submit(runner, task) for task in tasks]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _names(known: Sequence[str], **groups: Sequence[str]) -> Callable[..., list[str]]:
    """A callback for names with commas between, each taken once; the name of a group means all of it."""

    def chosen(_: click.Context, __: click.Parameter, value: str) -> list[str]:
        names = [name for word in value.split(",") for name in groups.get(word, (word,))]
        for name in names:
            if name not in known:
                raise click.BadParameter(f"expected some of {', '.join([*groups, *known])}, found {name!r}")
        return list(dict.fromkeys(names))

    return chosen


_COUNT = click.IntRange(min=1)


@click.command(help="Make all runs in FOLDER that are not there yet.")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--students", callback=_names([*STUDENTS]), default="small_cnn,small_vit", show_default=True)
@click.option(
    "--arms", callback=_names([*ARMS], main=MAIN, all=[*ARMS]), default="main", show_default=True,
    help="main, all, or names with commas between.",
)  # fmt: skip
@click.option("--seeds", type=_COUNT, default=5, show_default=True, help="How many: 0, 1, ...")
@click.option("--classes", type=click.IntRange(2, 60), default=12, show_default=True)
@click.option("--images", type=_COUNT, default=300, show_default=True, help="For training.")
@click.option("--test-images", type=_COUNT, default=1200, show_default=True)
@click.option("--epochs", type=_COUNT, default=Schedule.epochs, show_default=True)
@click.option("--processes", type=_COUNT, default=1, show_default=True, help="Each with one thread.")
@click.option("--device", default="cpu", show_default=True, help="cuda: all processes share one.")
@click.option("--prepare", is_flag=True, help="Write images and maps only, as for a machine without the stamps.")
@click.option("--stamps", type=click.Path(file_okay=False, path_type=Path), help="Folder of the stamps.")
def main(
    folder: Path, students: list[str], arms: list[str], seeds: int, classes: int, images: int, test_images: int,
    epochs: int, processes: int, device: str, prepare: bool, stamps: Path | None,
) -> None:  # fmt: skip
    """Prepare images and maps, then run; with a user's mistakes as messages."""
    for name, student in product(arms, students):
        if not STUDENTS[student].fits(ARMS[name]):
            click.echo(f"{name}: left out for {student}, which has other tokens at its end than the masks")
    _one_thread()
    schedule, tasks = Schedule(epochs), tasks_of(students, arms, seeds)
    if images < schedule.batch_size:
        raise click.BadParameter(
            f"expected a batch at least, {schedule.batch_size}, found {images}", param_hint="--images"
        )
    try:
        data = cut_outs(folder, classes, images, test_images, stamps)
        prepare_stores(data, {task.arm.store for task in tasks}, click.echo)
        if prepare:
            return
        chosen = {"classes": classes, "images": images, "test_images": test_images}
        experiment = open_experiment(folder, data, schedule, chosen, device)
        command = shlex.join(["python", "-m", "recipes.ablation.run", *sys.argv[1:]])
        run(Runner(experiment, data, schedule, command, device), tasks, processes, click.echo)
    except BrokenProcessPool as error:
        raise click.ClickException(
            f"{folder}: expected every process to finish, found that one was killed (for memory?); finished runs are "
            "there: give the same command again, perhaps with fewer --processes"
        ) from error
    except (AblationError, ExtractError, StoreError, OSError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
