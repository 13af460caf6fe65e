"""The code of docs/sharing.md, with a place in memory for the hub's."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from click.testing import CliRunner

from cli import main
from tests.docs.blocks import ROOT, blocks_of
from tests.store.conftest import make_rows, write_store

PAGE = "docs/sharing.md"
HUB = "hf://datasets/USER/imagenet-maps"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TOKENMIX_CACHE", str(tmp_path / "cache"))
    yield "memory://bucket/imagenet-maps"
    fsspec.filesystem("memory").store.clear()


def test_the_page(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shell, python = (block for block in blocks_of(ROOT / PAGE) if block.language in ("console", "python"))
    commands = [line.replace(HUB, place) for line in shell.text.splitlines() if line.startswith("tokenmix")]
    assert len(commands) == 2
    write_store(tmp_path / "here" / "maps", make_rows(17), 6)
    (tmp_path / "there").mkdir()
    for folder, command in zip(("here", "there"), commands, strict=True):
        monkeypatch.chdir(tmp_path / folder)
        done = CliRunner().invoke(main, shlex.split(command)[1:], catch_exceptions=False)
        assert done.exit_code == 0, done.output
    assert (tmp_path / "there" / "maps" / "store.json").exists()
    scope: dict[str, object] = {}
    exec(compile(python.text.replace(HUB, place), PAGE, "exec"), scope)
    assert len(scope["store"]) == 17  # type: ignore[arg-type]
