"""docs/paper.md: no empty cell, and nothing in it that is not there."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from cli import main
from tokenmix_loader import TokenMix

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "paper.md"
ROWS = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and not line.startswith("|---")]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2:30])
def test_no_cell_is_empty(row: str) -> None:
    cells = [cell.strip() for cell in row.strip("|").split(" | ")]
    assert len(cells) == 4
    assert all(cells)


def test_every_table_and_figure_has_a_row() -> None:
    numbers = {"table": range(1, 14), "figure": range(1, 9)}
    for title, expected in numbers.items():
        block = PAGE.read_text().partition(f"| {title} |")[2].partition("\n\n")[0]
        first = [line.split(" | ")[0].split(",")[0] + line.split(" | ")[0] for line in block.splitlines()[2:]]
        said = " ".join(first).replace("8 to 11", "8 9 10 11")
        assert set(map(str, expected)) <= set(re.findall(r"\d+", said)), title


def test_files_modules_and_commands_are_there() -> None:
    text = PAGE.read_text()
    files = re.findall(r"`((?:tests|recipes)/[\w/.]+)`", text) + re.findall(r"\]\(([^)#:]+)\)", text)
    assert len(files) > 20
    assert [name for name in files if not (ROOT / name).exists() and not (PAGE.parent / name).exists()] == []
    modules = re.findall(r"python -m ([\w.]+)", text)
    assert [name for name in modules if find_spec(name) is None] == []
    assert set(re.findall(r"`tokenmix (\w[\w-]*)", text)) <= set(main.commands)


def test_settings_are_those_of_tokenmix() -> None:
    known = set(TokenMix.__dataclass_fields__)
    said = set(re.findall(r"(?<![\w-])([a-z_]+)=[\"\d]", PAGE.read_text()))
    assert len(said) > 5
    assert said <= known
