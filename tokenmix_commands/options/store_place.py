"""A store on the command line: a folder, and where that makes sense a URL."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from tokenmix_commands.output.terminal import say, user_errors


class StorePlace(click.Path):
    """Gives a folder; a URL becomes that of the cache's copy, pulled if there is none yet."""

    def __init__(self, *, urls: bool):
        """`urls`: they are taken; else refused, for commands that write."""
        super().__init__(path_type=Path)
        self._urls = urls

    def convert(self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The folder; ends the command where a URL cannot be pulled."""
        if "://" not in os.fspath(value):
            return super().convert(value, param, ctx)
        if not self._urls:
            from store.folder.urls import without_secrets

            shown = without_secrets(os.fspath(value))
            self.fail(f"{shown}: expected a folder, found a URL; `tokenmix pull` and `push` copy a store.", param, ctx)
        with user_errors():
            from store import local_store
            from tokenmix_commands.output.progress_bar import show_bytes

            with show_bytes() as on_progress:
                return local_store(value, on_progress=on_progress, say=say)
