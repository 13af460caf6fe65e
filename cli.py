"""The `tokenmix` command: each command is a thin shell over one call of extract, store or tokenmix_loader.

Everything heavy is imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click


def _refuse_others() -> None:
    """End where a package of ours is another of that name: of the folder that the command runs in, or of PYTHONPATH."""
    for name in ("extract", "store", "tokenmix_loader"):
        spec = importlib.util.find_spec(name)  # finds it without running it
        places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
        found = next((Path(place).resolve() for place in places if place), None)
        if found != Path(__file__).resolve().parent / name / "__init__.py":
            raise SystemExit(
                f"tokenmix: error: expected the package `{name}` of tokenmix-maps beside {__file__}, found "
                f"{found or 'none'}; run from another folder, rename that one, or take its folder out of PYTHONPATH"
            )


_refuse_others()

import extract as calls  # noqa: E402 -- not before it is known to be ours
from extract.command_line.options import (  # noqa: E402
    CLASS_MAP,
    EXTEND,
    HEAD,
    IMAGES,
    MAX_ERRORS,
    MIN_TOP1,
    PATH,
    STORE,
    WORKER,
    even,
    fit_options,
    import_options,
    job_options,
    picture_path,
    slurm_options,
)
from extract.command_line.store_lines import (  # noqa: E402
    describe_header,
    describe_predictions,
    spell_bytes,
    spell_view,
)
from extract.command_line.terminal import (  # noqa: E402
    describe_report,
    let_openmp_sleep,
    running_job,
    say,
    user_errors,
)

if TYPE_CHECKING:
    from extract import FitOptions, ImportOptions, JobOptions, SlurmOptions, TeacherSpec
    from extract.job.processes.signals import StopRequest
    from extract.job.progress import Report

WATCH_S = 5.0
IMPORTED_FIGURE = "label leads most tokens of"  # published maps come without the teacher's predictions
ORIGINAL_IMAGES = click.option("--images", type=PATH, required=True, help="The images that the maps are of.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="tokenmix-maps")
def main() -> None:
    """Teacher activation maps, computed once, as exact TokenMix targets."""


@main.command()
@job_options
def plan(images: Path, class_map: Path | None, teacher: TeacherSpec, options: JobOptions) -> None:
    """Rows, shards, bytes and estimated hours of a job; writes nothing."""
    let_openmp_sleep()
    with user_errors():
        result = calls.plan(images, teacher, options, class_map=class_map, say=say)
        describe_header(result.header)
        click.echo(f"shards    {result.shards} of {options.shard_rows} rows, {spell_bytes(result.nbytes)} in all")
        click.echo(f"decoding  {result.decode_rate:.1f} img/s with {options.decoding_processes} processes (measured)")
        click.echo(f"teacher   {result.teacher_rate:.1f} img/s (measured)")
        click.echo(f"estimate  {result.hours:.2f} hours with one worker")


@main.command()
@job_options
@STORE
@WORKER
@MAX_ERRORS
@MIN_TOP1
@EXTEND
def extract(images: Path, store: Path, class_map: Path | None, teacher: TeacherSpec, options: JobOptions) -> None:
    """Run the teacher over IMAGES and write STORE; started again, it goes on where it stopped."""
    let_openmp_sleep()
    with running_job() as stop:  # before the heavy imports, in which a signal may arrive, too
        from extract.command_line.progress_bar import say_above_bar, show_progress

        with show_progress(sys.stderr) as on_progress:
            report = calls.run(
                images, store, teacher, options,
                class_map=class_map, on_progress=on_progress, stop=stop, say=say_above_bar,
            )  # fmt: skip
        _finish(report, store, stop)


@main.command()
@job_options
@STORE
@MAX_ERRORS
@MIN_TOP1
@EXTEND
@slurm_options
@click.option("--dry-run", is_flag=True, help="Print the script; submit nothing.")
def submit(
    images: Path,
    store: Path,
    class_map: Path | None,
    teacher: TeacherSpec,
    options: JobOptions,
    slurm: SlurmOptions,
    dry_run: bool,
) -> None:
    """Run `extract` as a Slurm array, after checking that it would start."""
    with user_errors():
        call = calls.render_submission if dry_run else calls.submit
        answers = call(images, store, teacher, options, slurm=slurm, class_map=class_map, say=say)
        if dry_run:
            click.echo("\n".join(answers), nl=False)
            return
        for job in answers:
            click.echo(f"submitted array {job}; see `tokenmix status {store}`")


@main.command()
@STORE
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--watch", is_flag=True, help="Redraw every few seconds until all is done.")
@click.option("--errors", is_flag=True, help="Also name the unreadable images; reads every shard.")
def status(store: Path, as_json: bool, watch: bool, errors: bool) -> None:
    """How far STORE is, how fast, and who is at work on it."""
    with user_errors():
        from extract.command_line.status_lines import status_lines

        while True:
            found = calls.status(store, unreadable=errors)
            text = json.dumps(dataclasses.asdict(found)) if as_json else "\n".join(status_lines(found))
            if watch:
                click.clear()
            click.echo(text)
            if found.complete or not watch:
                return
            time.sleep(WATCH_S)


@main.command("fit-head")
@fit_options
@click.option("-o", "--output", type=PATH, required=True, help="The head's file, for `extract --head`.")
def fit_head(images: Path, output: Path, teacher: TeacherSpec, options: FitOptions) -> None:
    """Fit a linear head for the classes of IMAGES on the teacher's features, for `extract --head`."""
    let_openmp_sleep()
    with running_job() as stop:
        from extract.command_line.progress_bar import show_progress

        with show_progress(sys.stderr) as on_progress:
            head = calls.fit_head(images, output, teacher, options, on_progress=on_progress, stop=stop, say=say)
        if head is None:
            say(f"stopped by {stop.signal.name if stop.signal else 'request'}; nothing was written")
            sys.exit(stop.exit_code)
        classes, channels = head.weight.shape
        click.echo(f"{output}: {classes} classes on {channels} features, digest {head.digest}")


@main.command("import")
@click.argument("form", metavar="FORMAT", type=click.Choice(["tokenlabeling", "relabel"]))
@click.argument("tree", metavar="SRC", type=PATH)
@IMAGES
@STORE
@CLASS_MAP
@import_options
def import_(form: str, tree: Path, images: Path, store: Path, class_map: Path | None, options: ImportOptions) -> None:
    """Put maps of TokenLabeling or ReLabel, one .pt per image below SRC, into STORE; started again, it goes on."""
    with running_job() as stop:
        from extract.command_line.progress_bar import say_above_bar, show_progress

        with show_progress(sys.stderr, figure=IMPORTED_FIGURE) as on_progress:
            report = calls.import_maps(
                form, tree, images, store, options,
                class_map=class_map, on_progress=on_progress, stop=stop, say=say_above_bar,
            )  # fmt: skip
        _finish(report, store, stop, IMPORTED_FIGURE)


@main.command()
@click.argument("form", metavar="FORMAT", type=click.Choice(["tokenlabeling"]))
@STORE
@click.argument("target", metavar="DST", type=PATH)
def export(form: str, store: Path, target: Path) -> None:
    """Write the maps of STORE, of kind topk, as a tree of one .pt per image that the public loaders read."""
    with user_errors():
        from store import read_header

        count = calls.export_maps(form, store, target)
        click.echo(f"{target}: {count} maps, {form}{spell_view(read_header(store))}")


@main.command()
@STORE
@click.option("--images", type=PATH, help="Also check that these are the same names, labels and files.")
@click.option("--sample", type=click.IntRange(0), metavar="N",
              help="Compare only N files of --images, evenly spread; default: all.")  # fmt: skip
@click.option("--repair", is_flag=True, help="Remove what is damaged, so that `extract` fills it again.")
@click.option("--retry-unreadable", is_flag=True, help="Also remove shards of images that can be read now.")
@click.option("--deep", type=click.IntRange(1), metavar="N", help="Also run the teacher again on N rows of --images.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Draws the rows of --deep.")
@click.option("--checkpoint", type=PATH, help="The teacher's weights, for --deep.")
@HEAD
@click.option("--device", default="cpu", show_default=True, help="Of the teacher, for --deep.")
def verify(
    store: Path,
    images: Path | None,
    sample: int | None,
    repair: bool,
    retry_unreadable: bool,
    deep: int | None,
    seed: int,
    checkpoint: Path | None,
    head: Path | None,
    device: str,
) -> None:
    """Check every row and shard of STORE; exit 1 and name each bad one."""
    needing = {"--deep": deep, "--retry-unreadable": retry_unreadable or None, "--sample": sample}
    if images is None and (given := [option for option, value in needing.items() if value is not None]):
        raise click.UsageError(f"{given[0]} needs --images, to read them again.")
    with user_errors():
        from extract.command_line.progress_bar import show_count
        from store import read_header

        with show_count("files compared") as on_compared:
            verdict = calls.verify(
                store, images=images, sample=sample, repair=repair, retry_unreadable=retry_unreadable, deep=deep,
                seed=seed, checkpoint=checkpoint, head=head, device=device, on_compared=on_compared,
            )  # fmt: skip
        if verdict.deep:
            click.echo(f"{verdict.deep.rows} rows again: largest error {verdict.deep.max_error:.2g} of a map's "
                       f"largest value, {verdict.deep.tolerance:.2g} allowed")  # fmt: skip
        for line in (*verdict.problems, *verdict.done):
            click.echo(line)
        report = verdict.report
        click.echo(f"{store}: {report.rows} rows in {report.shards} shards, {len(verdict.problems)} problems")
        if report.shards:
            describe_predictions(store, read_header(store))
        sys.exit(0 if verdict.ok else 1)


@main.command("drop-extension")
@STORE
@click.confirmation_option(prompt="Remove the last extension's shards?")
def drop_extension(store: Path) -> None:
    """Take the last `extract --extend` of STORE back; all from before it stays."""
    with user_errors():
        import store as stores

        removed = stores.drop_extension(store)
        click.echo(f"{store}: removed {len(removed)} files of the last extension: {removed[0]} to {removed[-1]}")


@main.command()
@STORE
@click.option("--json", "as_json", is_flag=True, help="The whole header and the state, for programs.")
def info(store: Path, as_json: bool) -> None:
    """What STORE contains, and how it was made."""
    with user_errors():
        from extract.audit.top1 import prediction_state
        from store import read_header
        from store.folder.files import present_shards

        header = read_header(store)
        shards, present = header.sharding.shards, len(present_shards(store, header))
        if as_json:
            state = {"shards": shards, "shards_present": present, "content_digest": header.content_digest}
            state |= prediction_state(store, header)
            click.echo(json.dumps({**dataclasses.asdict(header), **state}, indent=2, ensure_ascii=False))
            return
        describe_header(header)
        click.echo(f"shards    {present} of {shards} present")
        describe_predictions(store, header)


@main.command()
@STORE
@ORIGINAL_IMAGES
@click.option("-o", "--output", type=PATH, required=True, callback=picture_path,
              help="The picture to write, .png or another format, by its ending.")  # fmt: skip
@click.option("--pairs", type=click.IntRange(1, 20), default=4, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True)
@click.option("--evidence", type=click.Choice(["auto", "logit", "contrast"]), default="auto", show_default=True)
@click.option("--mask-kind", type=click.Choice(["block", "random", "region"]), default="block", show_default=True)
@click.option("--copies", is_flag=True, help="IMAGES are resized or re-encoded copies of those of the maps.")
def show(
    store: Path, images: Path, output: Path, pairs: int, seed: int, evidence: str, mask_kind: str, copies: bool
) -> None:
    """Draw pairs of training crops: maps, mask, mixed image, and both labels' area and TokenMix scores."""
    with user_errors():
        from extract.images.listing import list_images
        from tokenmix_loader.figures.show import draw_pairs

        picture = draw_pairs(list_images(images, store=store), store, pairs, seed, evidence, mask_kind,
                             same_files=not copies)  # fmt: skip
        picture.save(output, quality=95)  # of those formats that have one
        click.echo(f"{output}: {picture.width} x {picture.height} pixels")


@main.command()
@STORE
@ORIGINAL_IMAGES
@click.option("--samples", type=click.IntRange(2), default=1024, show_default=True, help="Images per pass.")
@click.option("--batch-size", type=click.IntRange(2), default=128, show_default=True, callback=even)
@click.option("--workers", type=click.IntRange(0), default=4, show_default=True, help="Loading processes.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Passes of each kind; medians.")
def bench(store: Path, images: Path, samples: int, batch_size: int, workers: int, rounds: int) -> None:
    """What maps cost here: timm's loader with CutMix, and with TokenMix, whose maps are in memory or on the disk."""
    with user_errors():
        from extract.images.listing import list_images
        from tokenmix_loader.bench import bench as run_bench

        report = run_bench(
            list_images(images, store=store), store, samples=samples, batch=batch_size, workers=workers, rounds=rounds
        )
        click.echo("\n".join(report.lines()))


def _finish(report: Report, store: Path, stop: StopRequest, figure: str = "teacher's top-1") -> None:
    """Say how a job ended, and end with the exit status of a stop if it was stopped."""
    describe_report(report, store, figure)
    if report.stopped:
        say(f"stopped by {stop.signal.name if stop.signal else 'request'}; run again to go on")
        sys.exit(stop.exit_code)


if __name__ == "__main__":
    main()
