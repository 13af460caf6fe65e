"""Commands that look after a store: verify, info, drop-extension."""

from __future__ import annotations

import sys
from pathlib import Path

import click

import extract as calls
from tokenmix_commands.grouped_help import command
from tokenmix_commands.options.shared import ANY_STORE, STORE
from tokenmix_commands.options.values import PATH
from tokenmix_commands.output.for_programs import JSON, info_values, print_json, verdict_values
from tokenmix_commands.output.store_lines import describe_header, describe_predictions
from tokenmix_commands.output.terminal import user_errors


@command(
    examples=[
        "tokenmix verify maps",
        "tokenmix verify maps --images imagenet/train --sample 1000",
        "tokenmix verify maps --repair && tokenmix extract imagenet/train maps ...",
    ]
)
@ANY_STORE
@click.option("--images", type=PATH, help="Also check that these are the same names, labels and files.")
@click.option("--sample", type=click.IntRange(0), metavar="N",
              help="Compare only N files of --images, evenly spread; default: all.")  # fmt: skip
@click.option("--repair", is_flag=True, help="Remove what is damaged, so that `extract` fills it again.")
@click.option("--retry-unreadable", is_flag=True, help="Also remove shards of images that can be read now.")
@click.option("--deep", type=click.IntRange(1), metavar="N", help="Also run the teacher again on N rows of --images.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, metavar="N",
              help="Draws the rows of --deep.")  # fmt: skip
@click.option("--checkpoint", type=PATH, metavar="FILE", help="The teacher's weights, for --deep.")
@click.option("--head", type=PATH, metavar="FILE", help="That of `extract --head`, for --deep.")
@click.option("--device", default="cpu", show_default=True, metavar="NAME", help="Of the teacher, for --deep.")
@JSON
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
    as_json: bool,
) -> None:
    """Check every byte of STORE, and name each bad row or file.

    Exit status 1 where anything is wrong; `--repair` takes out what is damaged.
    """
    needing = {"--deep": deep, "--retry-unreadable": retry_unreadable or None, "--sample": sample}
    if images is None and (given := [option for option, value in needing.items() if value is not None]):
        raise click.UsageError(f"{given[0]} needs --images, to read them again.")
    with user_errors():
        from store import read_header
        from tokenmix_commands.output.progress_bar import show_count

        with show_count("files compared") as on_compared:
            verdict = calls.verify(
                store, images=images, sample=sample, repair=repair, retry_unreadable=retry_unreadable, deep=deep,
                seed=seed, checkpoint=checkpoint, head=head, device=device, on_compared=on_compared,
            )  # fmt: skip
        if as_json:
            print_json(verdict_values(verdict))
            sys.exit(0 if verdict.ok else 1)
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


@command(examples=["tokenmix info maps", "tokenmix info maps --json | jq .teacher"])
@ANY_STORE
@JSON
def info(store: Path, as_json: bool) -> None:
    """What STORE contains, and how it was made."""
    with user_errors():
        from store import read_header
        from store.folder.files import present_shards

        header = read_header(store)
        if as_json:
            print_json(info_values(store, header))
            return
        describe_header(header)
        click.echo(f"shards    {len(present_shards(store, header))} of {header.sharding.shards} present")
        describe_predictions(store, header)


@command("drop-extension", examples=["tokenmix drop-extension maps --yes"])
@STORE
@click.confirmation_option(prompt="Remove the last extension's shards?")
def drop_extension(store: Path) -> None:
    """Take the last `extract --extend` of STORE back.

    All from before it stays.
    """
    with user_errors():
        import store as stores

        removed = stores.drop_extension(store)
        click.echo(f"{store}: removed {len(removed)} files of the last extension: {removed[0]} to {removed[-1]}")
