"""`--config FILE`: options of a command from JSON or YAML, under the names that they have on the command line."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

YAML = (".yaml", ".yml")
_EXAMPLE = '{"batch-size": 64}'


def read_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Callback of an eager option: the file's values become the command's defaults, so the command line wins.

    `{"teacher": "nfnet_f6", "pretrained": true, "model-arg": ["output_stride=8"]}`, or the same as YAML in a file whose
    name ends in .yaml or .yml; every value is read as if it had been typed, paths from the working directory. One file
    serves all commands: what only others take is passed over. Raises BadParameter for a file that is no mapping of
    options of such commands, naming the nearest.
    """
    if path is None:
        return
    options = _options_of(ctx.command)
    try:
        given = _parsed(path)
        if not isinstance(given, dict):
            raise ValueError(f"expected options by name, as {_EXAMPLE}, found a {type(given).__name__}")
        _refuse_unknown(given, {name for command in _siblings(ctx) for name in _options_of(command)})
        ctx.default_map = {options[name].name: _typed(options[name], given[name]) for name in given if name in options}
    except (OSError, ValueError, RecursionError) as error:
        raise click.BadParameter(f"{path}: {error}", ctx, param) from error


def _parsed(path: Path) -> Any:
    """The content, whatever it is; ValueError for what is neither JSON nor, under a name of YAML's, YAML."""
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() in YAML:
        import yaml

        try:
            _refuse_repeated(yaml.compose(text, yaml.BaseLoader))
            return yaml.load(text, yaml.BaseLoader)  # all values are texts: YAML takes a time of 12:00:00 for 43200
        except yaml.YAMLError as error:
            raise ValueError(f"expected YAML, found {' '.join(str(error).split())}") from error
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"expected JSON, as {_EXAMPLE}, or YAML under a name that ends in {' or '.join(YAML)}, found {error}"
        ) from error


def _refuse_repeated(node: Any) -> None:
    """ValueError for a YAML mapping with a name twice, of which its loaders take the last."""
    if node is not None and node.id == "mapping":
        _once([(key.value, value) for key, value in node.value])


def _once(pairs: Sequence[tuple[Any, Any]]) -> dict[str, Any]:
    names = [str(name) for name, _ in pairs]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise ValueError(f"expected every option once, found {repeated!r} again")
    return dict(zip(names, (value for _, value in pairs), strict=True))


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
    if option.is_flag and value in (True, False, "true", "false"):
        return value in (True, "true")
    if option.multiple and isinstance(value, list):
        return [str(one) for one in value]
    unset = value is None or (isinstance(value, str) and value.strip().lower() in ("", "null", "~"))
    if (
        not (option.is_flag or option.multiple or unset)
        and isinstance(value, str | int | float)
        and not isinstance(value, bool)
    ):
        return str(value)
    expected = "true or false" if option.is_flag else "a list" if option.multiple else "a text or a number"
    form = option.metavar or ""  # a word alone, as FILE, would tell nothing
    form = "" if form.isalpha() or not form else f", {'each' if option.multiple else 'as'} {form}"
    remedy = "; leave out what is not given" if unset else ""
    raise ValueError(f"{option.opts[0]}: expected {expected}{form}, found {json.dumps(value)}{remedy}")
