"""Values of options: what click's own types do not know, refused with what was expected and what was found."""

from __future__ import annotations

import ast
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from extract.settings import NAMED_TEACHERS

PATH = click.Path(path_type=Path)
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".pdf")  # in full colour by Pillow


class Range(click.FloatRange):
    """click's own takes NaN for a number of any range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number; BadParameter for any other."""
        number = super().convert(value, param, ctx)
        if number != number:
            self.fail(f"{value!r} is not in the range {self._describe_range()}.", param, ctx)
        return number


def named_teachers(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """For the shell's completion; timm's own names are a thousand, and would take seconds to load."""
    return [name for name in NAMED_TEACHERS if name.startswith(incomplete)]


def image_size(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """`448` or `448x320` (height x width) -> (height, width)."""
    if value is None:
        return None
    sides = value.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdecimal() and int(side) > 0 for side in sides):
        raise click.BadParameter(f"{value!r} is neither a side in pixels nor HEIGHTxWIDTH", ctx, param)
    return int(sides[0]), int(sides[-1])


def picture_path(ctx: click.Context, param: click.Parameter, value: Path) -> Path:
    """A file that a picture can be written to, refused before any work is done."""
    if value.suffix.lower() not in PICTURES:
        raise click.BadParameter(
            f"{str(value)!r}: expected a name that ends in {', '.join(PICTURES)}, found {value.suffix or 'no ending'}",
            ctx, param,
        )  # fmt: skip
    if not os.path.isdir(value.parent) or os.path.isdir(value):  # unlike pathlib's, False for a name that is too long
        found = "a folder of that name" if os.path.isdir(value) else f"no folder {str(value.parent)!r}"
        raise click.BadParameter(f"{str(value)!r}: expected a file in a folder, found {found}", ctx, param)
    return value


def even(ctx: click.Context, param: click.Parameter, value: int) -> int:
    """timm's mixing pairs the images of a batch."""
    if value % 2:
        raise click.BadParameter(f"expected an even number, for images are mixed in pairs, found {value}", ctx, param)
    return value


def input_scales(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """`1,1.5` -> (1.0, 1.5)."""
    if value is None:
        return None
    try:
        scales = tuple(float(part) for part in value.split(","))
    except ValueError:
        scales = ()
    if not scales or not all(0.1 <= scale <= 10 for scale in scales) or len(set(scales)) < len(scales):
        raise click.BadParameter(f"{value!r} is no list of different scales from 0.1 to 10", ctx, param)
    return scales


def model_arguments(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, Any]:
    """`key=value` each -> {key: value}; a value is a Python literal, or else the text itself."""
    found: dict[str, Any] = {}
    for text in values:
        key, sep, value = text.partition("=")
        if not sep or not key.isidentifier():
            raise click.BadParameter(f"{text!r} is not KEY=VALUE", ctx, param)
        try:
            found[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[key] = value
    return found
