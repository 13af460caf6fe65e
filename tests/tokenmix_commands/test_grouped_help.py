"""Help as a newcomer meets it: in groups, in 80 columns, with examples that are right."""

import re
import shlex
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from cli import SECTIONS, main
from tokenmix_commands.grouped_help import Command, Option

COMMANDS = [command for section in SECTIONS.values() for command in section]
NAMES = [str(command.name) for command in COMMANDS]


def page(*arguments: str, columns: int = 80) -> list[str]:
    """The lines of a help page on a terminal of so many columns."""
    done = CliRunner().invoke(main, [*arguments, "--help"], env={"COLUMNS": str(columns)}, catch_exceptions=False)
    assert done.exit_code == 0
    return done.output.splitlines()


def sections(lines: list[str]) -> dict[str, list[str]]:
    """Title -> first words of the lines that are no continuation of others."""
    found: dict[str, list[str]] = {}
    title = ""
    for line in lines:
        if re.fullmatch(r"\w.*:", line):
            found[title := line[:-1]] = []
        elif re.match(r"  \S", line) and title:
            found[title].append(line.split()[0])
    return found


def test_every_command_stands_once_under_its_title() -> None:
    found = sections(page())
    assert {title: found[title] for title in SECTIONS} == {
        title: [command.name for command in commands] for title, commands in SECTIONS.items()
    }
    assert sorted(NAMES) == sorted(main.commands)


@pytest.mark.parametrize("name", ["", *NAMES])
def test_pages_fit_a_terminal_of_80_columns(name: str) -> None:
    lines = page(name) if name else page()
    examples = lines.index("Examples:" if "Examples:" in lines else "Example:" if name else "From images to maps:")
    assert all(len(line) <= 80 and not line.endswith("...") for line in lines[1:examples])
    assert not [line for line in lines[:examples] if re.search(r"\w-$", line)], "words are broken at their hyphens"
    assert all(len(line) <= 88 for line in lines[examples:])  # to be copied, so that no width wraps them


def test_options_of_a_job_stand_in_groups() -> None:
    found = sections(page("submit"))
    assert list(found) == [
        "Arguments", "The teacher", "What the teacher sees", "The maps", "The images", "The run", "Slurm",
        "Other options", "Examples",
    ]  # fmt: skip
    assert found["Arguments"] == ["IMAGES", "STORE"]
    assert {"--teacher", "--pretrained", "--head"} <= {*found["The teacher"]}
    assert found["Other options"] == ["--config", "--dry-run", "--json", "-h,"]


def test_options_without_groups_are_simply_options() -> None:
    assert list(sections(page("status"))) == ["Arguments", "Options", "Example"]


@pytest.mark.parametrize("name", NAMES)
def test_every_option_and_argument_is_explained(name: str) -> None:
    command = main.commands[name]
    with click.Context(command, parent=click.Context(main, **main.context_settings)) as ctx:
        for param in command.get_params(ctx):
            record = param.get_help_record(ctx)
            assert record, f"{name}: {param.name}"
            assert record[1], f"{name}: {record[0]}"


def examples() -> Iterator[tuple[str, list[str]]]:
    for command in COMMANDS:
        assert isinstance(command, Command)
        assert command.examples, command.name
        for line in "\n".join(command.examples).replace("\\\n", "").splitlines():
            for call in re.split(r"&&|\|", line):
                if call.split()[0] == "tokenmix":
                    yield str(command.name), shlex.split(call)[1:]


def test_examples_are_taken_by_the_command_that_shows_them() -> None:
    """All options exist and have values of their types; nothing is run."""
    shown = set()
    for name, (called, *arguments) in examples():
        given = [argument for argument in arguments if argument != "..."]
        if called == "extract" and "..." in arguments:
            given += ["--teacher", "resnet101"]
        main.commands[called].make_context(called, given, parent=click.Context(main, **main.context_settings))
        shown |= {name} & {called}
    assert shown == {*NAMES}


def test_the_first_steps_are_commands() -> None:
    for line in main.first_steps[:2]:
        program, called, *arguments = shlex.split(line)
        assert program == "tokenmix"
        main.commands[called].make_context(called, arguments, parent=click.Context(main, **main.context_settings))


def test_an_option_of_a_group_remains_an_option() -> None:
    """`--config` and click itself go by this."""
    options = {option.opts[0]: option for option in main.commands["extract"].params if isinstance(option, click.Option)}
    teacher = options["--teacher"]
    assert isinstance(teacher, Option)
    assert teacher.group == "The teacher"
