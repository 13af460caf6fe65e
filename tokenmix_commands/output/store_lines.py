"""What a store contains and what its predictions say, in lines for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tokenmix_commands.output.terminal import say

if TYPE_CHECKING:
    from pathlib import Path

    from store import Header


def describe_header(header: Header) -> None:
    """Print what a store contains, and how it was made."""
    made, images = dict(header.teacher), dict(header.preprocessing)
    size = "x".join(str(side) for side in images.pop("input_size", None) or ())  # type: ignore[union-attr]
    weights = f", {made['parameters']:,} parameters, {made['source']} weights" if "parameters" in made else ""
    view = [images.get(name) for name in ("crop_mode", "crop_pct", "interpolation", "source")]
    click.echo(f"rows      {header.rows} images of {header.dataset['root_name']!r}, "
               f"{len(header.dataset['class_names'])} classes")  # type: ignore[arg-type]  # fmt: skip
    click.echo(f"maps      {header.kind}, {header.grid[0]} x {header.grid[1]} {header.dtype}")
    click.echo(f"teacher   {made.get('name', 'unknown')}{weights}")
    click.echo(f"input     {size + ' px, ' if size else ''}{', '.join(str(part) for part in view if part is not None)}")


def spell_bytes(count: int) -> str:
    """A size for people: `1.2 GB`."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.4g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"


def describe_predictions(store: Path, header: Header) -> None:
    """Top-1, the worst classes, unreadable rows; on stderr what is suspicious."""
    from extract.audit.top1 import prediction_lines, suspicions
    from store.checking.predictions import read_predictions

    stored = read_predictions(store, header)
    click.echo("\n".join(prediction_lines(stored)))
    for line in suspicions(stored.confusion, header, store, complete=stored.complete):
        say(line)


def spell_view(header: Header) -> str:
    """How `import` is told what the teacher saw, which the files do not say; nothing where it has no words for it."""
    made = dict(header.preprocessing)
    mode, height_width = made.get("crop_mode"), made.get("input_size") or [1]
    if mode == "squash" or (mode == "center" and len(set(height_width)) == 1):  # type: ignore[arg-type]
        return f"; the teacher's view, for `tokenmix import`: --view {mode} --crop-pct {made['crop_pct']}"
    return ""
