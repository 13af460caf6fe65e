"""Help in groups: commands by what they are for, options by what they set, and examples below.

click itself prints one list of each, which nobody reads to its end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Option(click.Option):
    """An option that stands under a title of its own in the help."""

    def __init__(self, *args: Any, group: str, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.group = group


class Argument(click.Argument):
    """An argument that the help explains; click's own takes such a text from 8.5 on."""

    def __init__(self, *args: Any, explained: str, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.explained = explained

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        """As of an option: how it is called, and what it is."""
        return self.make_metavar(ctx), self.explained


class Command(click.Command):
    """A command whose help has its options in groups, and examples to copy at the end."""

    def __init__(self, *args: Any, examples: Sequence[str], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the arguments, then every group of options, in the order in which they are declared."""
        params = self.get_params(ctx)
        others = "Other options" if any(isinstance(param, Option) for param in params) else "Options"
        groups: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        for param in params:
            title = "Arguments" if isinstance(param, click.Argument) else getattr(param, "group", others)
            if record := param.get_help_record(ctx):
                groups.setdefault(title, []).append(record)
        groups[others] = groups.pop(others, [])  # at the end
        for title, records in groups.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        write_lines("Examples" if len(self.examples) > 1 else "Example", self.examples, formatter)


class Commands(click.Group):
    """A group whose help has its commands under titles, and below them the shortest way to go."""

    def __init__(
        self, *args: Any, sections: Mapping[str, Sequence[click.Command]], first_steps: Sequence[str], **kwargs: Any
    ):
        super().__init__(*args, **kwargs)
        self.sections, self.first_steps = sections, first_steps
        for command in (command for section in sections.values() for command in section):
            self.add_command(command)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list for each title, all with their second column at one place."""
        widest = max(map(len, self.commands))
        for title, commands in self.sections.items():
            with formatter.section(title):
                limit = formatter.width - formatter.current_indent - widest - 2
                names = [(command.name or "").ljust(widest) for command in commands]
                formatter.write_dl([(name, command.get_short_help_str(limit))
                                    for name, command in zip(names, commands, strict=True)])  # fmt: skip

    def format_epilog(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the first steps."""
        write_lines("From images to maps", self.first_steps, formatter)


def write_lines(title: str, lines: Sequence[str], formatter: click.HelpFormatter) -> None:
    """Write lines that are to be copied, so that no width of the terminal wraps them."""
    with formatter.section(title):
        formatter.write("".join(f"{'':{formatter.current_indent}}{line}\n" for line in lines))


def command(name: str | None = None, *, examples: Sequence[str]) -> Callable[[Callable[..., Any]], click.Command]:
    """As `click.command`, of a command with examples."""
    return click.command(name, cls=Command, examples=examples)


def options_under(title: str) -> Callable[..., Decorator]:
    """`click.option` for the options under one title."""
    return partial(click.option, cls=Option, group=title)
