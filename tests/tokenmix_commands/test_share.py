"""`push` and `pull`, and URLs where a store is asked for."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from click.testing import CliRunner, Result

from cli import main
from store import MapStore, StoreError, cache_folder, create_store, read_header
from tests.store.conftest import make_rows, write_store

PAGE = Path(__file__).parents[2] / "docs" / "command-line.md"
URL = "memory://bucket/maps"


def tokenmix(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("share") / "maps"
    write_store(path, make_rows(17), 6)
    return path


@pytest.fixture(autouse=True)
def empty_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TOKENMIX_CACHE", str(tmp_path / "cache"))
    yield
    fsspec.filesystem("memory").store.clear()


def test_push_and_pull(maps: Path, tmp_path: Path) -> None:
    pushed = tokenmix("push", maps, URL)
    assert pushed.exit_code == 0, pushed.output
    assert pushed.stdout.startswith(f"{URL}: ")
    assert "4 of 4 files had to travel" in pushed.stdout
    assert "0 of 4 files had to travel" in tokenmix("push", maps, URL).stdout
    pulled = tokenmix("pull", URL, tmp_path / "copy", "--json")
    values = json.loads(pulled.stdout)
    row = next(line for line in PAGE.read_text().splitlines() if "`pull --json`" in line)
    assert {*re.findall(r"`(\w+)`", row)} == values.keys()
    assert values["moved_files"] == values["files"] == 4
    assert values["content_digest"] == read_header(maps).content_digest
    assert len(MapStore(tmp_path / "copy")) == 17
    assert str(cache_folder(URL)) in tokenmix("pull", URL).stdout


@pytest.mark.parametrize("command", [["info"], ["verify"]])
def test_a_url_is_a_store_where_one_is_read(maps: Path, command: list[str]) -> None:
    tokenmix("push", maps, URL)
    read = tokenmix(*command, URL)
    assert read.exit_code == 0, read.output
    assert "17" in read.stdout
    assert (cache_folder(URL) / "store.json").exists()


@pytest.mark.parametrize("command", [["extract", "x"], ["status"], ["drop-extension", "--yes"], ["push"]])
def test_a_url_is_refused_where_one_is_written(tmp_path: Path, command: list[str]) -> None:
    done = tokenmix(*command, URL, *([] if command != ["push"] else ["x"]))
    assert done.exit_code == 2
    assert f"{URL}: expected a folder, found a URL" in done.stderr
    assert not (tmp_path / "cache").exists()


def test_python_refuses_to_write_to_a_url(maps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place in (URL, Path(URL)):
        with pytest.raises(StoreError, match=f"{URL}: expected a folder to write to, found a URL"):
            create_store(place, read_header(maps))
    with pytest.raises(StoreError, match="^sftp://host/maps: expected a folder to write to"):
        create_store("sftp://me:secret@host/maps", read_header(maps))
    assert list(tmp_path.iterdir()) == []


def test_mistakes_end_in_one_line(maps: Path, tmp_path: Path) -> None:
    for arguments, code, message in (
        (["pull", URL, tmp_path / "copy"], 1, "tokenmix: error: memory://bucket/maps: not a pushed store"),
        (["pull", maps], 2, "Give STORE, too: a folder is read where it lies"),
        (["info", URL], 1, "tokenmix: error: memory://bucket/maps: not a pushed store"),
        (["push", tmp_path, URL], 1, "not a store: expected store.json in it"),
        (["pull", maps, "s3://me:secret@bucket/maps"], 2, " s3://bucket/maps: expected a folder, found a URL"),
    ):
        done = tokenmix(*arguments)
        assert (done.exit_code, done.stdout) == (code, "")
        assert message in done.stderr
