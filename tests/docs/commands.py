"""Whether a command of the documentation can be given: its program, its options, their values."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import click

from cli import main
from tests.docs.blocks import ROOT

# Programs that are not ours and take what they like.
OTHERS = {"apt-get", "cd", "dpkg-deb", "eval", "jq", "parallel", "sleep", "sort", "srun", "until"}
LEFT_OUT = "..."  # in an example: more options of the same command
LAUNCHERS = {"torchrun": {"--nproc-per-node": 1, "--no-python": 0}}


def fault_of(words: list[str]) -> str | None:
    """What is wrong with a command, None where nothing is."""
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # variables of the environment
        words = words[1:]
    program, *rest = words
    program = program.removeprefix(".venv/bin/")
    if program in LAUNCHERS:
        while rest and rest[0] in LAUNCHERS[program]:
            rest = rest[1 + LAUNCHERS[program][rest[0]] :]
        return fault_of(rest if rest[0] == "tokenmix" else ["python", *rest])
    if program == "tokenmix":
        return _fault_of_ours(rest)
    if program in ("python", "python3"):
        return _fault_of_module(rest)
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        return next((f"make has no target {word}" for word in rest if word not in targets), None)
    if program == "pip":
        extras = (
            (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
        )
        known = re.findall(r"^(\w+) = \[", extras, re.M)
        named = [extra for word in rest for extra in re.findall(r"^\.\[(.*)\]$", word)]
        return next((f"no extra {extra}" for extra in ",".join(named).split(",") if extra and extra not in known), None)
    return None if program in OTHERS else f"no program of ours, nor listed as another's: {program}"


def _fault_of_ours(words: list[str]) -> str | None:
    if not words or words[0].startswith("-"):
        return None
    command = main.get_command(click.Context(main), words[0])
    return f"tokenmix has no command {words[0]}" if command is None else _fault_of_options(command, words[1:])


def _fault_of_module(words: list[str]) -> str | None:
    if words[0] != "-m":
        return f"expected python -m MODULE, found {words[0]}"
    if find_spec(words[1]) is None:
        return f"no module {words[1]}"
    if words[1] == "pytest":
        return next((f"no file {word}" for word in words if "/" in word and not (ROOT / word).exists()), None)
    source = ROOT / f"{words[1].replace('.', '/')}.py"
    if source.exists() and "@click.command" in source.read_text():
        return _fault_of_options(import_module(words[1]).main, words[2:])
    options = [word.partition("=")[0] for word in words[2:] if word.startswith("--")]
    return next((f"{words[1]} has no {option}" for option in options if f'"{option}"' not in source.read_text()), None)


def _fault_of_options(command: click.Command, words: list[str]) -> str | None:
    """Options and values that click refuses. Paths may be anything: they are the reader's, as `--config` is."""
    shortened = LEFT_OUT in words
    # A command keeps the help option of its first context, so each gets the context that it has in a terminal.
    parent = click.Context(main, **main.context_settings) if command in main.commands.values() else None
    context = click.Context(command, parent=parent, info_name=command.name)
    try:
        values, rest, _ = command.make_parser(context).parse_args([word for word in words if word != LEFT_OUT])
        if rest:
            return f"too many arguments: {rest}"
        given = {name: value for name, value in values.items() if isinstance(value, str | list | tuple | bool)}
        for parameter in command.params:
            value = given.get(str(parameter.name))
            if value is None and parameter.required and not shortened:
                return f"{command.name}: {parameter.name} is missing"
            if value is not None and not isinstance(parameter.type, click.Path) and not _is_a_name(value):
                parameter.type_cast_value(context, value)
    except click.UsageError as error:
        return f"{command.name}: {error.format_message()}"
    return None


def _is_a_name(value: object) -> bool:
    """Such as N or I/N, which the reader replaces."""
    return isinstance(value, str) and re.fullmatch(r"[A-Z][A-Z/_.0-9]*|[{$].*", value) is not None


def unknown_in(words: list[str]) -> str | None:
    """What is unknown of a command that running text names, with only the options that the sentence is about."""
    command = main.get_command(click.Context(main), words[1])
    if command is None:
        return f"tokenmix has no command {words[1]}"
    known = {"--help", *(option for parameter in command.params for option in parameter.opts)}
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    return next((f"{words[1]} has no {option}" for option in options if option not in known), None)


def commands_in_text(page: Path) -> list[list[str]]:
    """Commands of ours in a page's sentences and tables, as words."""
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S)
    spans = re.findall(r"`(?:torchrun [^`]*|parallel [^`]*|srun [^`]*)?(tokenmix [a-z][^`]+)`", text)
    return [re.split(r"\s+", re.sub(r"[\[\]']", "", span).strip()) for span in spans]
