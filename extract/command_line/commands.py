"""The commands of jobs: plan, extract, submit, status, import. Heavy imports wait inside, for a light `--help`."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from extract.command_line.options import (
    EXTEND,
    FOLDER,
    MAX_ERRORS,
    STORE,
    given_arguments,
    import_options,
    job_options,
    slurm_options,
)
from extract.command_line.terminal import describe_header, say, spell_bytes, user_errors

if TYPE_CHECKING:
    from extract.job.run import Report
    from extract.job.signals import StopRequest
    from extract.settings import JobOptions
    from extract.teacher.timm_teacher import Teacher

WATCH_S = 5.0


@click.command()
@job_options
def plan(**given: Any) -> None:
    """Rows, shards, bytes and estimated hours of a job; writes nothing."""
    share_cores()
    with user_errors():
        from extract.images.listing import list_images
        from extract.job.plan import make_plan

        images = list_images(given["images"], given["class_map"])
        teacher, options = prepare(given)
        result = make_plan(images, teacher, options)
        describe_header(result.header)
        click.echo(f"shards    {result.shards} of {options.shard_rows} rows, {spell_bytes(result.nbytes)} in all")
        click.echo(f"decoding  {result.decode_rate:.1f} img/s with {options.decoding_processes} processes (measured)")
        click.echo(f"teacher   {result.teacher_rate:.1f} img/s on {teacher.device} (measured)")
        click.echo(f"estimate  {result.hours:.2f} hours with one worker")


@click.command()
@job_options
@STORE
@click.option("--worker", metavar="I/N", help="Do the share of worker I of N; default: torchrun's, Slurm's, or 0/1.")
@MAX_ERRORS
@EXTEND
def extract(store: Path, **given: Any) -> None:
    """Run the teacher over IMAGES and write STORE; started again, it goes on where it stopped."""
    from extract.job.signals import stop_on_signals

    share_cores()
    with stop_on_signals() as stop, user_errors():  # before the heavy imports, in which a warning may arrive, too
        from extract.command_line.progress_bar import show_progress
        from extract.images.listing import list_images, refuse_store_inside
        from extract.job.run import run_job

        refuse_store_inside(store, given["images"])
        images = list_images(given["images"], given["class_map"])
        teacher, options = prepare(given)
        say(f"{len(images)} images, {len(images.class_names)} classes; {given['teacher']} on {teacher.device}, "
             f"grid {teacher.grid[0]} x {teacher.grid[1]}")  # fmt: skip
        with show_progress(sys.stderr) as on_progress:
            report = run_job(images, store, teacher, options, on_progress=on_progress, stop=stop)
        _finish(report, store)
        _end_stopped(report, stop)


@click.command()
@job_options
@STORE
@MAX_ERRORS
@EXTEND
@slurm_options
@click.option("--dry-run", is_flag=True, help="Print the script; submit nothing.")
def submit(store: Path, dry_run: bool, **given: Any) -> None:
    """Run `extract` as a Slurm array, after checking that it would start."""
    with user_errors():
        from extract.job.slurm import SlurmOptions, max_array_size, render_arrays, submit_arrays, this_command

        names = {field.name for field in dataclasses.fields(SlurmOptions)}
        asked = {name: value for name, value in given.items() if name in names and value is not None}
        asked.setdefault("log_dir", Path(f"{store.absolute()}.logs"))
        asked.setdefault("command", this_command())
        slurm = SlurmOptions(**asked)
        _check_submission(store, slurm.tasks, given)
        arguments = given_arguments(click.get_current_context(), leave_out={*names, "dry_run"})
        scripts = render_arrays(slurm, store, arguments, max_array_size())
        if dry_run:
            click.echo("\n".join(scripts), nl=False)
            return
        for job in submit_arrays(scripts, slurm.log_dir):
            click.echo(f"submitted array {job}; see `tokenmix status {store}` and {slurm.log_dir}")


@click.command()
@STORE
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--watch", is_flag=True, help="Redraw every few seconds until all is done.")
@click.option("--errors", is_flag=True, help="Also name the unreadable images; reads every shard.")
def status(store: Path, as_json: bool, watch: bool, errors: bool) -> None:
    """How far STORE is, how fast, and who is at work on it."""
    with user_errors():
        from extract.job.status import describe, read_status

        while True:
            found = read_status(store, unreadable=errors)
            text = json.dumps(dataclasses.asdict(found)) if as_json else "\n".join(describe(found))
            if watch:
                click.clear()
            click.echo(text)
            if found.complete or not watch:
                return
            time.sleep(WATCH_S)


@click.command("import")
@click.argument("form", metavar="FORMAT", type=click.Choice(["tokenlabeling", "relabel"]))
@click.argument("tree", metavar="SRC", type=FOLDER)
@click.argument("images", type=FOLDER)
@STORE
@import_options
@MAX_ERRORS
def import_(form: str, tree: Path, images: Path, store: Path, **given: Any) -> None:
    """Put maps of TokenLabeling or ReLabel, one .pt per image below SRC, into STORE; started again, it goes on."""
    from extract.job.signals import stop_on_signals

    with stop_on_signals() as stop, user_errors():
        from extract.command_line.progress_bar import show_progress
        from extract.images.listing import list_images, refuse_store_inside
        from extract.published.importing import import_maps
        from extract.settings import ImportOptions
        from extract.worker import Worker

        refuse_store_inside(store, images)
        listed = list_images(images, given.pop("class_map"))
        given["worker"] = Worker.parse(given["worker"]) if given["worker"] else Worker.from_environment()
        with show_progress(sys.stderr) as on_progress:
            options = ImportOptions(**given)
            report = import_maps(form, tree, listed, store, options, on_progress=on_progress, stop=stop)
        _finish(report, store)
        _end_stopped(report, stop)


def share_cores() -> None:
    """Let the teacher's threads sleep while they wait: on a CPU, decoding needs the cores that OpenMP would spin on.

    To be called before torch is loaded. benchmarks/extract.py shows what it does to a decode-bound job.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def prepare(given: dict[str, Any]) -> tuple[Teacher, JobOptions]:
    """The teacher, loaded and checked, and the job's options, from the command line."""
    import torch

    from extract.settings import JobOptions, TeacherSpec
    from extract.teacher.presets import apply_preset, make_teacher
    from extract.teacher.timm_teacher import parse_model_arg
    from extract.worker import Worker, local_device

    _refuse_unused(given)
    names = {field.name for field in dataclasses.fields(TeacherSpec)}
    spec = {name: value for name, value in given.items() if name in names and value is not None}
    spec["name"] = given["teacher"]
    spec["model_args"] = dict(parse_model_arg(text) for text in given["model_args"])
    spec["device"] = local_device(given["device"], torch.cuda.device_count())
    options = JobOptions(
        dtype=given["dtype"],
        shard_rows=given["shard_size"],
        batch_size=given["batch_size"],
        decoding_processes=given["workers"],
        worker=Worker.parse(given["worker"]) if given.get("worker") else Worker.from_environment(),
        max_errors=given.get("max_errors"),
        extend=given.get("extend", False),
    )
    return make_teacher(TeacherSpec(**apply_preset(spec))), options


def _refuse_unused(given: dict[str, Any]) -> None:
    from extract.errors import ExtractError

    for name, kind in (("top_k", "topk"), ("cam_stage", "cam")):
        if given[name] is not None and given["kind"] != kind:
            option = name.replace("_", "-")
            raise ExtractError(f"--{option}: expected --kind {kind}, found --kind {given['kind']}; leave one out")


def _check_submission(store: Path, tasks: int, given: dict[str, Any]) -> None:
    """What `extract` would refuse, in front of the user and not in a log file hours later."""
    from extract.errors import ExtractError
    from extract.images.listing import list_images
    from extract.job.plan import missing_shards

    images = list_images(given["images"], given["class_map"])
    missing = missing_shards(images, store, *prepare({**given, "device": "cpu"}))
    say(f"{len(images)} images, {missing} shards to do, {tasks} workers")
    if tasks > missing:
        raise ExtractError(
            f"--tasks {tasks}: expected at most one worker per shard that is missing, found {missing} of those; "
            "give fewer tasks, or a new store with a smaller --shard-size"
        )


def _end_stopped(report: Report, stop: StopRequest) -> None:
    if report.stopped:
        say(f"stopped by {stop.signal.name if stop.signal else 'request'}; run again to go on")
        sys.exit(stop.exit_code)


def _finish(report: Report, store: Path) -> None:
    from store import unreadable_rows

    progress = report.progress
    for key, reason in progress.errors:
        say(f"unreadable: {key!r}: {reason}")
    done = "nothing to do"
    if progress.done:
        done = f"{progress.done} images in {progress.seconds:.1f} s ({progress.rate:.1f} img/s), "
        if progress.judged:
            done += f"teacher's top-1 {100 * progress.top1:.1f} %"
        else:
            done += "no predictions" if progress.readable else "none of them readable"
    elif report.complete and (count := sum(1 for _ in unreadable_rows(store))):
        say(f"{count} images were unreadable when their shards were done (`tokenmix status --errors`); repaired since? "
            "`tokenmix verify --retry-unreadable --images IMAGES`, then run again")  # fmt: skip
    state = "complete" if report.complete else "incomplete"
    click.echo(f"{store}: {done}; {report.shards_written} shards written, this worker's share is {state}")
