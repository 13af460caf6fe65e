"""Commands that look at maps, and at what they cost in a training: show, report, bench."""

from __future__ import annotations

from pathlib import Path

import click

from tokenmix_commands.grouped_help import command
from tokenmix_commands.options.shared import ANY_STORE, ORIGINAL_IMAGES
from tokenmix_commands.options.values import PATH, even, picture_path
from tokenmix_commands.output.for_programs import JSON, bench_values, print_json
from tokenmix_commands.output.terminal import fail, user_errors


@command(examples=["tokenmix show maps --images imagenet/train -o maps.png"])
@ANY_STORE
@ORIGINAL_IMAGES
@click.option("-o", "--output", type=PATH, required=True, callback=picture_path, metavar="FILE",
              help="The picture to write, .png or another format, by its ending.")  # fmt: skip
@click.option("--pairs", type=click.IntRange(1, 20), default=4, show_default=True, metavar="N", help="At most 20.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, metavar="N",
              help="Draws the images, their crops and the masks.")  # fmt: skip
@click.option("--evidence", type=click.Choice(["auto", "logit", "contrast"]), default="auto", show_default=True,
              help="What of a map counts as seen; auto: as a training does.")  # fmt: skip
@click.option("--mask-kind", type=click.Choice(["block", "random", "region"]), default="block", show_default=True,
              help="Which tokens are mixed.")  # fmt: skip
@click.option("--copies", is_flag=True, help="IMAGES are resized or re-encoded copies of those of the maps.")
def show(
    store: Path, images: Path, output: Path, pairs: int, seed: int, evidence: str, mask_kind: str, copies: bool
) -> None:
    """Draw training crops, their maps, masks and scores.

    A picture with a row for each pair: both crops, their maps, the mask, the mixed image, and what both labels get by
    area, as CutMix does, and by TokenMix.
    """
    with user_errors():
        from extract.images.listing import list_images
        from tokenmix_loader.figures.show import draw_pairs

        picture = draw_pairs(list_images(images, store=store), store, pairs, seed, evidence, mask_kind,
                             same_files=not copies)  # fmt: skip
        picture.save(output, quality=95)  # of those formats that have one
        click.echo(f"{output}: {picture.width} x {picture.height} pixels")


@command(examples=["tokenmix report maps --images imagenet/train -o report.html"])
@ANY_STORE
@ORIGINAL_IMAGES
@click.option("-o", "--output", type=PATH, required=True, metavar="FILE|FOLDER",
              help="The page to write: a name that ends in .html, or a folder, in which it is index.html.")  # fmt: skip
@click.option("--samples", type=click.IntRange(1), default=500, show_default=True, metavar="N",
              help="Images to look at, drawn evenly from the store.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, metavar="N",
              help="Draws the images, and crops and masks of the mixes.")  # fmt: skip
@click.option("--evidence", type=click.Choice(["auto", "logit", "contrast"]), default="auto", show_default=True,
              help="What of a map counts as seen; auto: as a training does.")  # fmt: skip
@click.option("--copies", is_flag=True, help="IMAGES are resized or re-encoded copies of those of the maps.")
def report(store: Path, images: Path, output: Path, samples: int, seed: int, evidence: str, copies: bool) -> None:
    """Write a page about a whole store, finished or not.

    One HTML file that needs no network: the teacher's accuracy per class, samples with their maps, where the maps look
    on average, bad images, and what mixed images are worth. It says what to look for, and when to worry.
    """
    with user_errors():
        from extract.images.listing import list_images, refuse_store_inside

        try:
            from tokenmix_loader.figures.report import write_report
        except ModuleNotFoundError as error:  # of an extra
            fail(f"report: expected the package {error.name}, found none; pip install 'tokenmix-maps[figures]'")
        refuse_store_inside(output, images, "a report")
        page = write_report(list_images(images, store=store), store, output, samples=samples, seed=seed,
                            evidence=evidence, same_files=not copies)  # fmt: skip
        click.echo(f"{page}: {page.stat().st_size / 1e6:.1f} MB; open it in a browser")


@command(examples=["tokenmix bench maps --images imagenet/train --workers 8"])
@ANY_STORE
@ORIGINAL_IMAGES
@click.option("--samples", type=click.IntRange(2), default=1024, show_default=True, metavar="N",
              help="Images per pass.")  # fmt: skip
@click.option("--batch-size", type=click.IntRange(2), default=128, show_default=True, callback=even, metavar="N",
              help="An even number.")  # fmt: skip
@click.option("--workers", type=click.IntRange(0), default=4, show_default=True, metavar="N",
              help="Loading processes.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, metavar="N",
              help="Passes of each kind; medians are compared.")  # fmt: skip
@JSON
def bench(store: Path, images: Path, samples: int, batch_size: int, workers: int, rounds: int, as_json: bool) -> None:
    """What maps cost in a training here, beside CutMix.

    Times timm's loader with CutMix, and with TokenMix, whose maps are in memory or on the disk.
    """
    with user_errors():
        from extract.images.listing import list_images
        from tokenmix_loader.bench import bench as run_bench

        report = run_bench(
            list_images(images, store=store), store, samples=samples, batch=batch_size, workers=workers, rounds=rounds
        )
        if as_json:
            print_json(bench_values(report))
            return
        click.echo("\n".join(report.lines()))
