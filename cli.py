"""The `tokenmix` command: thin shells over the functions of extract, store and tokenmix_loader.

Everything heavy is imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from extract.options import FOLDER, MAX_ERRORS, STORE, given_arguments, job_options, slurm_options

if TYPE_CHECKING:
    from extract.job import JobOptions, Report
    from extract.teacher import Teacher
    from store import Header

WATCH_S = 5.0


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="tokenmix-maps")
def main() -> None:
    """Teacher activation maps, computed once, as exact TokenMix targets."""


@main.command()
@job_options
def plan(**given: Any) -> None:
    """Rows, shards, bytes and estimated hours of a job; writes nothing."""
    with user_errors():
        from extract.images import list_images
        from extract.plan import make_plan

        images = list_images(given["images"], given["class_map"])
        teacher, options = _prepare(given)
        result = make_plan(images, teacher, options)
        _describe(result.header)
        click.echo(f"shards    {result.shards} of {options.shard_rows} rows, {_nbytes(result.nbytes)} in all")
        click.echo(f"decoding  {result.decode_rate:.1f} img/s with {options.workers} processes (measured)")
        click.echo(f"teacher   {result.teacher_rate:.1f} img/s on {teacher.device} (measured)")
        click.echo(f"estimate  {result.hours:.2f} hours with one worker")


@main.command()
@job_options
@STORE
@click.option("--worker", metavar="I/N", help="Do the share of worker I of N; default: torchrun's, Slurm's, or 0/1.")
@MAX_ERRORS
def extract(store: Path, **given: Any) -> None:
    """Run the teacher over IMAGES and write STORE; started again, it goes on where it stopped."""
    from extract.signals import stop_on_signals

    with stop_on_signals() as stop, user_errors():  # before the heavy imports, in which a warning may arrive, too
        from extract.images import list_images, refuse_store_inside
        from extract.job import run_job
        from extract.progress import show_progress

        refuse_store_inside(store, given["images"])
        images = list_images(given["images"], given["class_map"])
        teacher, options = _prepare(given)
        _say(f"{len(images)} images, {len(images.class_names)} classes; {given['teacher']} on {teacher.device}, "
             f"grid {teacher.grid[0]} x {teacher.grid[1]}")  # fmt: skip
        with show_progress(sys.stderr) as on_progress:
            report = run_job(images, store, teacher, options, on_progress=on_progress, stop=stop)
        _finish(report, store)
        if report.stopped:
            _say(f"stopped by {stop.signal.name if stop.signal else 'request'}; run again to go on")
            sys.exit(stop.exit_code)


@main.command()
@job_options
@STORE
@MAX_ERRORS
@slurm_options
@click.option("--dry-run", is_flag=True, help="Print the script; submit nothing.")
def submit(store: Path, dry_run: bool, **given: Any) -> None:
    """Run `extract` as a Slurm array, after checking that it would start."""
    with user_errors():
        from extract.slurm import SlurmOptions, max_array_size, render_arrays, submit_arrays, this_command

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


@main.command()
@STORE
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--watch", is_flag=True, help="Redraw every few seconds until all is done.")
@click.option("--errors", is_flag=True, help="Also name the unreadable images; reads every shard.")
def status(store: Path, as_json: bool, watch: bool, errors: bool) -> None:
    """How far STORE is, how fast, and who is at work on it."""
    with user_errors():
        from extract.status import describe, read_status

        while True:
            found = read_status(store, unreadable=errors)
            text = json.dumps(dataclasses.asdict(found)) if as_json else "\n".join(describe(found))
            if watch:
                click.clear()
            click.echo(text)
            if found.complete or not watch:
                return
            time.sleep(WATCH_S)


@main.command()
@STORE
@click.option("--images", type=FOLDER, help="Also check that this folder lists the same names and labels.")
@click.option("--class-map", type=FOLDER, help="The class map that the extraction was given.")
def verify(store: Path, images: Path | None, class_map: Path | None) -> None:
    """Check every row and shard of STORE; exit 1 and name each bad one."""
    with user_errors():
        import store as store_

        report = store_.verify(store)
        problems = [str(problem) for problem in report.problems]
        if images is not None:
            problems += _compare_images(store, images, class_map)
        for problem in problems:
            click.echo(problem)
        click.echo(f"{store}: {report.rows} rows in {report.shards} shards, {len(problems)} problems")
        sys.exit(1 if problems else 0)


@main.command()
@STORE
@click.option("--json", "as_json", is_flag=True, help="The whole header and the state, for programs.")
def info(store: Path, as_json: bool) -> None:
    """What STORE contains, and how it was made."""
    with user_errors():
        from store import present_shards, read_header

        header = read_header(store)
        present = len(present_shards(store, header))
        if as_json:
            state = {
                "shards": header.layout.shards,
                "shards_present": present,
                "content_digest": header.content_digest,
            }
            click.echo(json.dumps({**dataclasses.asdict(header), **state}, indent=2, ensure_ascii=False))
            return
        _describe(header)
        click.echo(f"shards    {present} of {header.layout.shards} present")


@main.command()
@STORE
@click.option("--images", type=FOLDER, required=True, help="The folder that the maps were extracted from.")
@click.option("--class-map", type=FOLDER, help="The class map that the extraction was given.")
@click.option("-o", "--output", type=FOLDER, required=True, help="The PNG to write.")
@click.option("--pairs", type=click.IntRange(1, 20), default=4, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True)
@click.option("--evidence", type=click.Choice(["logit", "contrast"]), default="logit", show_default=True)
@click.option("--mask", type=click.Choice(["block", "random", "region"]), default="block", show_default=True)
def show(store: Path, images: Path, class_map: Path | None, output: Path, **choices: Any) -> None:
    """Draw pairs of training crops: maps, mask, mixed image, and both labels' area and TokenMix scores."""
    with user_errors():
        from extract.images import list_images
        from tokenmix_loader.show import draw_pairs

        listed = list_images(images, class_map)
        picture = draw_pairs(listed, store, **choices)
        picture.save(output, format="PNG")
        click.echo(f"{output}: {picture.width} x {picture.height} pixels")


@main.command()
@STORE
@click.option("--images", type=FOLDER, required=True, help="The class folder that the maps were extracted from.")
@click.option("--samples", type=click.IntRange(1), default=1024, show_default=True, help="Images per pass.")
@click.option("--batch-size", "batch", type=click.IntRange(1), default=128, show_default=True)
@click.option("--workers", type=click.IntRange(0), default=4, show_default=True, help="Loading processes.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Passes of each kind; medians.")
def bench(store: Path, images: Path, **settings: Any) -> None:
    """What maps cost here: timm's loader with CutMix, and the same with TokenMix, in turn."""
    with user_errors():
        from tokenmix_loader.bench import bench as run_bench

        report = run_bench(images, store, **settings)
        rows = zip(("without maps", "with maps"), report.epoch_s, report[1:], strict=True)
        for name, epoch_s, (wall_ms, cpu_ms) in rows:
            click.echo(f"{name:14}{1e3 / wall_ms:8.0f} img/s   epoch {epoch_s:8.1f} s   CPU {cpu_ms:.3f} ms/img")
        click.echo(f"{'ratio':14}epoch {report.epoch_s[1] / report.epoch_s[0]:.4f}   "
                   f"CPU {report.with_maps.cpu_ms / report.without_maps.cpu_ms:.4f}")  # fmt: skip


@contextmanager
def user_errors() -> Iterator[None]:
    """Errors that the user can mend end in one message and exit status 1, anything else in a traceback."""
    from extract.errors import ExtractError
    from store import StoreError

    try:
        yield
    except (ExtractError, StoreError) as error:
        _fail(str(error))
    except OSError as error:
        if error.errno is None:
            raise
        mend = "free some and run again: what is finished is kept" if error.errno == errno.ENOSPC else "check the path"
        _fail(f"{error.filename or 'file system'}: {error.strerror}; {mend}")
    except KeyboardInterrupt:  # click would end with 1, as if something had failed
        _say("interrupted; run again to go on")
        sys.exit(130)


def _fail(message: str) -> NoReturn:
    click.echo(f"tokenmix: error: {message}", err=True)
    sys.exit(1)


def _say(message: str) -> None:
    with suppress(OSError):  # a log that is gone or full must not end the job
        click.echo(message, err=True)


def _prepare(given: dict[str, Any]) -> tuple[Teacher, JobOptions]:
    import torch

    from extract.job import JobOptions
    from extract.presets import apply_preset
    from extract.teacher import Teacher, TeacherSpec, parse_model_arg
    from extract.worker import Worker, local_device

    names = {field.name for field in dataclasses.fields(TeacherSpec)}
    spec = {name: value for name, value in given.items() if name in names}
    spec["name"] = given["teacher"]
    spec["model_args"] = dict(parse_model_arg(text) for text in given["model_args"])
    spec["device"] = local_device(given["device"], torch.cuda.device_count())
    options = JobOptions(
        dtype=given["dtype"],
        shard_rows=given["shard_size"],
        batch_size=given["batch_size"],
        workers=given["workers"],
        worker=Worker.parse(given["worker"]) if given.get("worker") else Worker.from_environment(),
        max_errors=given.get("max_errors"),
    )
    return Teacher(TeacherSpec(**apply_preset(spec))), options


def _check_submission(store: Path, tasks: int, given: dict[str, Any]) -> None:
    """What `extract` would refuse, in front of the user and not in a log file hours later."""
    from extract.errors import ExtractError
    from extract.images import list_images
    from extract.plan import missing_shards

    images = list_images(given["images"], given["class_map"])
    missing = missing_shards(images, store, *_prepare({**given, "device": "cpu"}))
    _say(f"{len(images)} images, {missing} shards to do, {tasks} workers")
    if tasks > missing:
        raise ExtractError(
            f"--tasks {tasks}: expected at most one worker per shard that is missing, found {missing} of those; "
            "give fewer tasks, or a new store with a smaller --shard-size"
        )


def _describe(header: Header) -> None:
    teacher, images = header.teacher, header.preprocessing
    size = "x".join(str(side) for side in images["input_size"])  # type: ignore[union-attr]
    click.echo(f"rows      {header.rows} images of {header.dataset['root_name']!r}, "
               f"{len(header.dataset['class_names'])} classes")  # type: ignore[arg-type]  # fmt: skip
    click.echo(f"maps      {header.kind}, {header.grid[0]} x {header.grid[1]} {header.dtype}")
    click.echo(f"teacher   {teacher['name']}, {teacher['parameters']:,} parameters, {teacher['source']} weights")
    click.echo(f"input     {size} px, {images['crop_mode']} {images['crop_pct']}, {images['interpolation']}")


def _finish(report: Report, store: Path) -> None:
    progress = report.progress
    for key, reason in progress.errors:
        _say(f"unreadable: {key!r}: {reason}")
    done = "nothing to do"
    if progress.done:
        done = f"{progress.done} images in {progress.seconds:.1f} s ({progress.rate:.1f} img/s), "
        done += f"teacher's top-1 {100 * progress.top1:.1f} %" if progress.readable else "none of them readable"
    state = "complete" if report.complete else "incomplete"
    click.echo(f"{store}: {done}; {report.shards_written} shards written, this worker's share is {state}")


def _compare_images(store: Path, images: Path, class_map: Path | None) -> list[str]:
    from extract.images import list_images
    from store import read_header

    listed = list_images(images, class_map).header()
    stored = read_header(store).dataset
    return [
        f"{images}: {what} differ from the store's: expected {stored[name]}, found {listed[name]}"
        for name, what in (("class_names", "class names"), ("digest", "names or labels of the images"))
        if listed[name] != stored[name]
    ]


def _nbytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.4g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"


if __name__ == "__main__":
    main()
