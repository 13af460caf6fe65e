"""Commands that make maps: plan, extract, submit, status, fit-head."""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

import extract as calls
from tokenmix_commands.grouped_help import command
from tokenmix_commands.options.job import fit_options, job_options
from tokenmix_commands.options.shared import EXTEND, MAX_ERRORS, MIN_TOP1, NEW_STORE, STORE, WORKER, run_option
from tokenmix_commands.options.slurm import slurm_options
from tokenmix_commands.options.values import PATH
from tokenmix_commands.output.for_programs import JSON, head_values, plan_values, print_json
from tokenmix_commands.output.store_lines import describe_header, spell_bytes
from tokenmix_commands.output.terminal import finish, let_openmp_sleep, running_job, say, user_errors

if TYPE_CHECKING:
    from extract import FitOptions, JobOptions, SlurmOptions, TeacherSpec

WATCH_S = 5.0


@command(examples=["tokenmix plan imagenet/train --teacher resnet101 --pretrained"])
@job_options
@JSON
def plan(images: Path, class_map: Path | None, teacher: TeacherSpec, options: JobOptions, as_json: bool) -> None:
    """How large and how long a job will be; writes nothing.

    Rows, files, bytes, and hours, by the speed that is measured on some of the images. Takes the options of
    `extract`, and refuses what that would refuse.
    """
    let_openmp_sleep()
    with user_errors():
        result = calls.plan(images, teacher, options, class_map=class_map, say=say)
        if as_json:
            print_json(plan_values(result))
            return
        describe_header(result.header)
        click.echo(f"shards    {result.shards} of {options.shard_rows} rows, {spell_bytes(result.nbytes)} in all")
        click.echo(f"decoding  {result.decode_rate:.1f} img/s with {options.decoding_processes} processes (measured)")
        click.echo(f"teacher   {result.teacher_rate:.1f} img/s (measured)")
        click.echo(f"estimate  {timedelta(seconds=math.ceil(3600 * result.hours))} with one worker")


@command(
    examples=[
        "tokenmix extract imagenet/train maps --teacher resnet101 --pretrained",
        "tokenmix extract photos maps --teacher efficientnet_lite0 --head head.safetensors",
    ]
)
@job_options
@NEW_STORE
@WORKER
@MAX_ERRORS
@MIN_TOP1
@EXTEND
def extract(images: Path, store: Path, class_map: Path | None, teacher: TeacherSpec, options: JobOptions) -> None:
    """Run the teacher over IMAGES and write STORE.

    Stop it whenever you like: the same command goes on where it stopped, and ends at once when all is done.
    """
    let_openmp_sleep()
    with running_job() as stop:  # before the heavy imports, in which a signal may arrive, too
        from tokenmix_commands.output.progress_bar import say_above_bar, show_progress

        with show_progress(sys.stderr) as on_progress:
            report = calls.run(
                images, store, teacher, options,
                class_map=class_map, on_progress=on_progress, stop=stop, say=say_above_bar,
            )  # fmt: skip
        finish(report, store, stop)


@command(
    examples=[
        "tokenmix submit imagenet/train maps --teacher resnet101 --pretrained \\",
        "    --tasks 8 --gpus 1 --time 4:00:00 --dry-run",
    ]
)
@job_options
@NEW_STORE
@MAX_ERRORS
@MIN_TOP1
@EXTEND
@slurm_options
@click.option("--dry-run", is_flag=True, help="Print the script; submit nothing.")
@JSON
def submit(
    images: Path,
    store: Path,
    class_map: Path | None,
    teacher: TeacherSpec,
    options: JobOptions,
    slurm: SlurmOptions,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Run `extract` as a Slurm array.

    It is checked first that the job would start. Takes the options of `extract`, and those that Slurm is given; a task
    that runs out of time is queued again.
    """
    with user_errors():
        call = calls.render_submission if dry_run else calls.submit
        answers = call(images, store, teacher, options, slurm=slurm, class_map=class_map, say=say)
        if as_json:
            print_json({"scripts" if dry_run else "jobs": answers})
            return
        if dry_run:
            click.echo("\n".join(answers), nl=False)
            return
        for job in answers:
            click.echo(f"submitted array {job}; see `tokenmix status {store}`")


@command(examples=["tokenmix status maps --watch"])
@STORE
@JSON
@click.option("--watch", is_flag=True, help="Redraw every few seconds until all is done.")
@click.option("--errors", is_flag=True, help="Also name the unreadable images; reads every shard.")
def status(store: Path, as_json: bool, watch: bool, errors: bool) -> None:
    """How far STORE is, how fast, and who is at work on it."""
    with user_errors():
        from tokenmix_commands.output.status_lines import status_lines

        while True:
            found = calls.status(store, unreadable=errors)
            if watch:
                click.clear()
            if as_json:
                print_json(dataclasses.asdict(found), indent=None)  # a line each time
            else:
                click.echo("\n".join(status_lines(found)))
            if found.complete or not watch:
                return
            time.sleep(WATCH_S)


@command(
    "fit-head",
    examples=[
        "tokenmix fit-head photos -o head.safetensors --teacher efficientnet_lite0",
        "tokenmix extract photos maps --teacher efficientnet_lite0 --head head.safetensors",
    ],
)
@fit_options
@run_option("-o", "--output", type=PATH, required=True, metavar="FILE", help="The head's file, for `extract --head`.")
@JSON
def fit_head(images: Path, output: Path, teacher: TeacherSpec, options: FitOptions, as_json: bool) -> None:
    """Teach a teacher your own classes, for `extract --head`.

    Fits a linear head for the classes of IMAGES on the teacher's features, in one pass over the images, and says how
    accurate it is on images that were held out.
    """
    let_openmp_sleep()
    with running_job() as stop:
        from tokenmix_commands.output.progress_bar import say_above_bar, show_progress

        with show_progress(sys.stderr) as on_progress:
            head = calls.fit_head(
                images, output, teacher, options, on_progress=on_progress, stop=stop, say=say_above_bar
            )
        if head is None:
            say(f"stopped by {stop.signal.name if stop.signal else 'request'}; nothing was written")
            sys.exit(stop.exit_code)
        if as_json:
            print_json(head_values(head, output))
            return
        classes, channels = head.weight.shape
        click.echo(f"{output}: {classes} classes on {channels} features, digest {head.digest}")
