"""Commands that carry a store to other machines and people: push, pull."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokenmix_commands.grouped_help import Argument, command
from tokenmix_commands.options.shared import STORE
from tokenmix_commands.options.store_place import StorePlace
from tokenmix_commands.output.for_programs import JSON, print_json, transfer_values
from tokenmix_commands.output.store_lines import spell_bytes
from tokenmix_commands.output.terminal import user_errors

if TYPE_CHECKING:
    from store import Transfer

URL = click.argument("url", cls=Argument, explained="hf://datasets/USER/NAME, s3://BUCKET/PATH or a folder.")


@command(
    examples=[
        "tokenmix push maps hf://datasets/USER/imagenet-maps",
        "tokenmix push maps s3://BUCKET/imagenet-maps",
        "tokenmix push maps /mnt/shared/imagenet-maps",
    ]
)
@STORE
@URL
@JSON
def push(store: Path, url: str, as_json: bool) -> None:
    """Copy a complete STORE to a URL.

    Only what is missing there travels. The store is verified first, and visible there when all of it has arrived.
    Started again, it goes on.
    """
    with user_errors():
        import store as stores
        from tokenmix_commands.output.progress_bar import show_bytes

        with show_bytes() as on_progress:
            done = stores.push(store, url, on_progress=on_progress)
        _report(done, f"{done.url}: ", as_json)


@command(
    examples=["tokenmix pull hf://datasets/USER/imagenet-maps maps", "tokenmix pull hf://datasets/USER/imagenet-maps"]
)
@URL
@click.argument("store", type=StorePlace(urls=False), required=False, cls=Argument,
                explained="The folder to write; default: where MapStore(URL) keeps it.")  # fmt: skip
@JSON
def pull(url: str, store: Path | None, as_json: bool) -> None:
    """Copy a pushed store to a folder.

    It is verified before it is a store. A copy of an earlier state gets what was added since. Started again, it goes
    on.
    """
    with user_errors():
        import store as stores
        from store.folder.urls import path_of
        from tokenmix_commands.output.progress_bar import say_above_bar, show_bytes

        if store is None and path_of(url) is not None:
            raise click.UsageError("Give STORE, too: a folder is read where it lies, and has no copy in the cache.")
        target = stores.cache_folder(url) if store is None else store
        with show_bytes() as on_progress:
            done = stores.pull(url, target, on_progress=on_progress, say=say_above_bar)
        _report(done, f"{done.store}: ", as_json)


def _report(done: Transfer, where: str, as_json: bool) -> None:
    if as_json:
        print_json(transfer_values(done))
        return
    moved = f"{done.moved} of {done.files} files had to travel, {spell_bytes(done.moved_nbytes)}"
    click.echo(f"{where}{spell_bytes(done.nbytes)}, content digest {done.content_digest[:16]}; {moved}")
