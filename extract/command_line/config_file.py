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
    been typed, paths from the working directory. One file serves all commands: what only others take is passed over.
    Raises BadParameter for a file that is not a JSON object of options of such commands, naming the nearest.
    """
    if path is None:
        return
    options = _options_of(ctx.command)
    try:
        given = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(given, dict):
            raise ValueError(f"expected a JSON object of options, found a {type(given).__name__}")
        _refuse_unknown(given, {name for command in _siblings(ctx) for name in _options_of(command)})
        ctx.default_map = {options[name].name: _typed(options[name], given[name]) for name in given if name in options}
    except (OSError, ValueError, RecursionError) as error:
        raise click.BadParameter(f"{path}: {error}", ctx, param) from error


def _options_of(command: click.Command) -> dict[str, click.Option]:
    """By long name without hyphens; none of a command that takes no such file."""
    options = {p.opts[0].removeprefix("--"): p for p in command.params if isinstance(p, click.Option)}
    return options if options.pop("config", None) else {}


def _siblings(ctx: click.Context) -> list[click.Command]:
    group = ctx.parent.command if ctx.parent else None
    return list(group.commands.values()) if isinstance(group, click.Group) else [ctx.command]


def _refuse_unknown(given: dict[str, Any], known: set[str]) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0)
            raise ValueError(f"expected an option, found {name!r}; did you mean {near[0]!r}?")


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
