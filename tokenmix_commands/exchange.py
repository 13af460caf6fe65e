"""Commands that share maps and exchange them with other projects: import, export."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

import extract as calls
from tokenmix_commands.grouped_help import Argument, command
from tokenmix_commands.options.job import import_options
from tokenmix_commands.options.shared import ANY_STORE, CLASS_MAP, IMAGES, NEW_STORE
from tokenmix_commands.options.values import PATH
from tokenmix_commands.output.store_lines import spell_view
from tokenmix_commands.output.terminal import finish, running_job, user_errors

if TYPE_CHECKING:
    from extract import ImportOptions

IMPORTED_FIGURE = "label leads most tokens of"  # published maps come without the teacher's predictions


@command("import", examples=["tokenmix import tokenlabeling label_top5_train_nfnet imagenet/train maps"])
@click.argument("form", metavar="FORMAT", type=click.Choice(["tokenlabeling", "relabel"]), cls=Argument,
                explained="tokenlabeling or relabel.")  # fmt: skip
@click.argument("tree", metavar="SRC", type=PATH, cls=Argument, explained="The folder of their .pt files.")
@IMAGES
@NEW_STORE
@CLASS_MAP
@import_options
def import_(form: str, tree: Path, images: Path, store: Path, class_map: Path | None, options: ImportOptions) -> None:
    """Put maps of TokenLabeling or ReLabel into STORE.

    They come as one .pt per image below SRC, in folders as those of IMAGES. Started again, it goes on.
    """
    with running_job() as stop:
        from tokenmix_commands.output.progress_bar import say_above_bar, show_progress

        with show_progress(sys.stderr, figure="leads") as on_progress:
            report = calls.import_maps(
                form, tree, images, store, options,
                class_map=class_map, on_progress=on_progress, stop=stop, say=say_above_bar,
            )  # fmt: skip
        finish(report, store, stop, IMPORTED_FIGURE)


@command(examples=["tokenmix export tokenlabeling maps label_top5"])
@click.argument("form", metavar="FORMAT", type=click.Choice(["tokenlabeling"]), cls=Argument,
                explained="tokenlabeling.")  # fmt: skip
@ANY_STORE
@click.argument("target", metavar="DST", type=PATH, cls=Argument, explained="The folder to write.")
def export(form: str, store: Path, target: Path) -> None:
    """Write maps as TokenLabeling's loader reads them.

    One .pt per image; only maps of `extract --kind topk` have what it needs.
    """
    with user_errors():
        from store import read_header

        count = calls.export_maps(form, store, target)
        click.echo(f"{target}: {count} maps, {form}{spell_view(read_header(store))}")
