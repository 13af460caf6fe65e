"""The `tokenmix` command: thin shells over the functions of extract, store and tokenmix_loader.

Everything heavy is imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from extract.command_line import commands
from extract.command_line.options import FOLDER, STORE
from extract.command_line.terminal import describe_header, user_errors

if TYPE_CHECKING:
    from store import Header


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="tokenmix-maps")
def main() -> None:
    """Teacher activation maps, computed once, as exact TokenMix targets."""


for job_command in (commands.plan, commands.extract, commands.submit, commands.status, commands.import_):
    main.add_command(job_command)


@main.command()
@STORE
@click.option("--images", type=FOLDER, help="Also check that this folder lists the same names and labels.")
@click.option("--class-map", type=FOLDER, help="The class map that the extraction was given.")
@click.option("--repair", is_flag=True, help="Remove what is damaged, so that `extract` fills it again.")
@click.option("--retry-unreadable", "retry", is_flag=True, help="Also remove shards of images that can be read now.")
@click.option("--deep", type=click.IntRange(1), metavar="N", help="Also run the teacher again on N rows of --images.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Draws the rows of --deep.")
@click.option("--checkpoint", type=FOLDER, help="The teacher's weights, for --deep.")
@click.option("--device", default="cpu", show_default=True, help="Of the teacher, for --deep.")
def verify(
    store: Path,
    images: Path | None,
    class_map: Path | None,
    repair: bool,
    retry: bool,
    deep: int | None,
    **teacher: Any,
) -> None:
    """Check every row and shard of STORE; exit 1 and name each bad one."""
    if (deep or retry) and images is None:
        raise click.UsageError(f"{'--deep' if deep else '--retry-unreadable'} needs --images, to read them again.")
    with user_errors():
        import store as store_

        report, done = store_.repair(store) if repair or retry else (store_.verify(store), [])
        problems = [str(problem) for problem in report.problems]
        if images is not None:
            problems += _compare_images(store, images, class_map, retry)
        if images is not None and deep and problems:
            done.append("--deep was left out: it needs a sound store and the images that it was made of")
        elif images is not None and deep:
            problems += _compare_maps(store, images, class_map, deep, **teacher)
        for line in (*problems, *done):
            click.echo(line)
        click.echo(f"{store}: {report.rows} rows in {report.shards} shards, {len(problems)} problems")
        sys.exit(1 if problems else 0)


@main.command("drop-extension")
@STORE
@click.confirmation_option(prompt="Remove the last extension's shards?")
def drop_extension(store: Path) -> None:
    """Take the last `extract --extend` of STORE back; all from before it stays."""
    with user_errors():
        import store as store_

        removed = store_.drop_extension(store)
        click.echo(f"{store}: removed {len(removed)} files of the last extension: {removed[0]} to {removed[-1]}")


@main.command()
@STORE
@click.option("--json", "as_json", is_flag=True, help="The whole header and the state, for programs.")
def info(store: Path, as_json: bool) -> None:
    """What STORE contains, and how it was made."""
    with user_errors():
        from store import read_header
        from store.folder.files import present_shards

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
        describe_header(header)
        click.echo(f"shards    {present} of {header.layout.shards} present")


@main.command()
@click.argument("form", metavar="FORMAT", type=click.Choice(["tokenlabeling"]))
@STORE
@click.argument("target", metavar="DST", type=FOLDER)
def export(form: str, store: Path, target: Path) -> None:
    """Write the maps of STORE, of kind topk, as a tree of one .pt per image that the public loaders read."""
    with user_errors():
        from extract.published.exporting import export_tokenlabeling
        from store import StoreError, read_header
        from store.spec import HEADER_FILE

        if (target / HEADER_FILE).exists():
            raise StoreError(f"{target}: expected a folder for .pt files, found a store; give another path")
        count = sum(1 for _ in export_tokenlabeling(store, target))
        click.echo(f"{target}: {count} maps, {form}{_spell_view(read_header(store))}")


@main.command()
@STORE
def index(store: Path) -> None:
    """Write index.h5 into STORE: all shards as one, for any HDF5 tool; nothing is copied."""
    with user_errors():
        from store.index import write_index

        click.echo(write_index(store))


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
        from extract.images.listing import list_images
        from tokenmix_loader.show import draw_pairs

        listed = list_images(images, class_map)
        picture = draw_pairs(listed, store, **choices)
        picture.save(output, format="PNG")
        click.echo(f"{output}: {picture.width} x {picture.height} pixels")


@main.command()
@STORE
@click.option("--images", type=FOLDER, required=True, help="The folder that the maps were extracted from.")
@click.option("--class-map", type=FOLDER, help="The class map that the extraction was given.")
@click.option("--samples", type=click.IntRange(1), default=1024, show_default=True, help="Images per pass.")
@click.option("--batch-size", "batch", type=click.IntRange(1), default=128, show_default=True)
@click.option("--workers", type=click.IntRange(0), default=4, show_default=True, help="Loading processes.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Passes of each kind; medians.")
def bench(store: Path, images: Path, class_map: Path | None, **settings: Any) -> None:
    """What maps cost here: timm's loader with CutMix, and with TokenMix, whose maps are in memory or on the disk."""
    with user_errors():
        from extract.images.listing import list_images
        from tokenmix_loader.bench import bench as run_bench

        report = run_bench(list_images(images, class_map), store, **settings)
        rows = zip(("without maps", "with maps", "cold maps"), report.epoch_s, report[1:], strict=True)
        for name, epoch_s, (wall_ms, cpu_ms) in rows:
            click.echo(f"{name:14}{1e3 / wall_ms:8.0f} img/s   epoch {epoch_s:8.1f} s   CPU {cpu_ms:.3f} ms/img")
        ratios = ", ".join(f"{after / report.epoch_s[0]:.4f}" for after in report.epoch_s[1:])
        cpu = report.with_maps.cpu_ms / report.without_maps.cpu_ms
        click.echo(f"{'ratio':14}epoch {ratios} when cold   CPU {cpu:.4f}")


def _spell_view(header: Header) -> str:
    """How `import` is told what the teacher saw, which the files do not say; nothing where it has no words for it."""
    made = dict(header.preprocessing)
    mode, height_width = made.get("crop_mode"), made.get("input_size") or [1]
    if mode == "squash" or (mode == "center" and len(set(height_width)) == 1):  # type: ignore[arg-type]
        return f"; the teacher's view, for `tokenmix import`: --view {mode} --crop-pct {made['crop_pct']}"
    return ""


def _compare_images(store: Path, images: Path, class_map: Path | None, retry: bool) -> list[str]:
    from extract.audit.unreadable import drop_repaired
    from extract.images.listing import list_images
    from extract.images.stored_order import in_stored_order
    from store import StoreError, read_header

    listed = list_images(images, class_map)
    try:
        given = in_stored_order(listed, store)[0].header()
    except StoreError as error:
        return [f"{images}: {error}"]
    stored = read_header(store).dataset
    problems = [
        f"{images}: {what} differ from the store's: expected {stored[name]}, found {given[name]}"
        for name, what in (("class_names", "class names"), ("digest", "names or labels of the images"))
        if given[name] != stored[name]
    ]
    return drop_repaired(listed, store) if retry and not problems else problems


def _compare_maps(store: Path, images: Path, class_map: Path | None, rows: int, **teacher: Any) -> tuple[str, ...]:
    from extract.audit.run_again import verify_deep
    from extract.images.listing import list_images

    report = verify_deep(store, list_images(images, class_map), rows, **teacher)
    click.echo(f"{report.rows} rows again: largest error {report.max_error:.2g} of a map's largest value, "
               f"{report.tolerance:.2g} allowed")  # fmt: skip
    return report.problems


if __name__ == "__main__":
    main()
