"""`--config FILE`: options of a command from a JSON file, under the names that they have on the command line."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

import click


def read_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Callback of an eager option: the file's values become the command's defaults, so the command line wins.

    `{"teacher": "nfnet_f6", "pretrained": true, "model-arg": ["output_stride=8"]}`; every value is read as if it had
    been typed, paths from the working directory. Raises BadParameter for a file that is not a JSON object of options
    of this command, naming the nearest.
    """
    if path is None:
        return
    known = (option for option in ctx.command.params if isinstance(option, click.Option) and option is not param)
    options = {option.opts[0].removeprefix("--"): option for option in known}
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(given, dict):
            raise ValueError(f"expected a JSON object of options, found a {type(given).__name__}")
        ctx.default_map = {_option(options, name).name: _typed(options[name], value) for name, value in given.items()}
    except (OSError, ValueError, RecursionError) as error:
        raise click.BadParameter(f"{path}: {error}", ctx, param) from error


def _option(options: dict[str, click.Option], name: str) -> click.Option:
    if name not in options:
        near = difflib.get_close_matches(name, options, n=1, cutoff=0)
        raise ValueError(f"expected options of this command, found {name!r}; did you mean {near[0]!r}?")
    return options[name]


def _typed(option: click.Option, value: Any) -> bool | str | list[str]:
    """The value as it would come from the command line, for the option's own type to check."""
    if option.is_flag and isinstance(value, bool):
        return value
    if option.multiple and isinstance(value, list):
        return [str(one) for one in value]
    if not (option.is_flag or option.multiple) and isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    expected = "true or false" if option.is_flag else "a list" if option.multiple else "a text or a number"
    raise ValueError(f"{option.opts[0]}: expected {expected}, found {json.dumps(value)}")
