"""docs/troubleshooting.md has every public exception, and its messages are those of the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import extract
import store
import tokenmix_loader

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
MESSAGES = re.findall(r"^```text\n(.*?)^```", PAGE, re.S | re.M)
SOURCES = [*(path for package in ("extract", "store", "tokenmix_loader") for path in (ROOT / package).rglob("*.py"))]
SOURCES += [ROOT / "cli.py", *(ROOT / "tokenmix_commands").rglob("*.py")]


def literals() -> set[str]:
    """All texts of the code, and of f-strings what stands between their braces, from eight characters on."""
    nodes = (node for path in SOURCES for node in ast.walk(ast.parse(path.read_text("utf-8"))))
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    parts = {part.strip() for text in texts for part in re.split(r"%[srd]", text)}  # logging's placeholders
    return {part for part in parts if 8 <= len(part) < 400}


LITERALS = literals()


def said_by_the_code(message: str) -> float:
    """The share of a message that is made of the code's own texts; names, numbers and paths are the rest."""
    covered = bytearray(len(message))
    for part in LITERALS:
        at = message.find(part)
        if at >= 0:
            covered[at : at + len(part)] = b"\1" * len(part)
    return sum(covered) / len(message)


def test_every_public_exception_has_an_entry() -> None:
    exported = {getattr(package, name) for package in (extract, store, tokenmix_loader) for name in package.__all__}
    exceptions = {value.__name__ for value in exported if isinstance(value, type) and issubclass(value, Exception)}
    assert len(exceptions) >= 7
    headings = " ".join(re.findall(r"^## (.*)$", PAGE, re.M))
    assert [name for name in sorted(exceptions) if not re.search(rf"\b{name}\b", headings)] == []


def test_the_page_quotes_messages() -> None:
    assert len(MESSAGES) > 40


def test_quoted_messages_are_those_of_the_code() -> None:
    """One that fails is no longer said: quote what the code says now."""
    assert [message for message in MESSAGES if said_by_the_code(message.strip()) < 0.55] == []


def test_an_invented_message_would_be_noticed() -> None:
    assert (
        said_by_the_code("maps: expected a store with at least one shard, found none; make one, then try again") < 0.4
    )
