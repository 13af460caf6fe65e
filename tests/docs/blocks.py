"""The code blocks of the documentation, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        ROOT / "CONTRIBUTING.md",
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("recipes/**/*.md"),
    ]
)
SHELL = ("console", "bash", "sh")
INDENTED = "indented"
PROGRAMS = {"apt-get", "make", "pip", "python", "python3", "tokenmix", "torchrun"}
SEPARATORS = {"|", "||", "&&", ";", "do", "done"}


@dataclass(frozen=True)
class Block:
    """Code on a page: `language` as behind its fence, or `indented`."""

    page: str
    language: str
    text: str

    @property
    def name(self) -> str:
        """The page and the beginning of the block's first line, by which tests list it."""
        return f"{self.page}: {self.text.strip().splitlines()[0][:50].strip()}"

    @property
    def commands(self) -> list[list[str]]:
        """Its commands, as words without comments; lines that end in a backslash go on.

        Of an indented block, which may be a drawing, only lines that begin with a program of `PROGRAMS`.
        """
        lines = self.text.replace("\\\n", " ").splitlines() if self.language in (*SHELL, INDENTED) else []
        if self.language == INDENTED:
            lines = [line for line in lines if line.split() and line.split()[0].removeprefix(".venv/bin/") in PROGRAMS]
        words = (shlex.split(line.removeprefix("$ "), comments=True) for line in lines)
        parts = (
            list(part) for line in words for between, part in groupby(line, SEPARATORS.__contains__) if not between
        )
        return [part for part in parts if part]


def blocks_of(page: Path) -> Iterator[Block]:
    """All blocks of a page, from top to bottom."""
    name, lines = page.relative_to(ROOT).as_posix(), page.read_text("utf-8").splitlines()
    at = 0
    while at < len(lines):
        fence = re.match(r"(\s*)```(\w*)", lines[at])
        if fence:
            end = next(n for n in range(at + 1, len(lines)) if lines[n].strip() == "```")
            yield Block(name, fence[2], "\n".join(line.removeprefix(fence[1]) for line in lines[at + 1 : end]) + "\n")
            at = end + 1
        elif re.match(r"    \S", lines[at]) and (at == 0 or not lines[at - 1].strip()) and not _in_list(lines, at):
            end = next((n for n in range(at, len(lines)) if not re.match(r"    |\s*$", lines[n])), len(lines))
            yield Block(name, INDENTED, "\n".join(line[4:] for line in lines[at:end]).rstrip() + "\n")
            at = end
        else:
            at += 1


def _in_list(lines: list[str], at: int) -> bool:
    """Whether an indented line goes on with an item of a list."""
    above = next((line for line in reversed(lines[:at]) if line.strip() and not line.startswith(" ")), "")
    return re.match(r"[-*] |\d+\. ", above) is not None


ALL = [block for page in PAGES for block in blocks_of(page)]
