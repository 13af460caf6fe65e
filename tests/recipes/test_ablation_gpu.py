"""The one call for a GPU: what fails or takes too long is said, and does not keep the rest from running."""

from __future__ import annotations

import argparse
import json
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from recipes.ablation import gpu
from recipes.ablation.gpu import Step, steps, take
from recipes.ablation.run import main as run_command

ENDLESS = ["timeit", "-n", "1", "-s", "import time", "time.sleep(600)"]
QUICK = ["timeit", "-n", "1", "-r", "1", "1"]


@pytest.mark.parametrize(
    ("command", "open_ended", "expected"),
    [
        (QUICK, False, (0, False, True)),
        (["no_such_module"], True, (1, False, False)),
        (ENDLESS, False, (None, True, False)),
        (ENDLESS, True, (None, True, True)),
    ],
)
def test_how_a_step_ends(tmp_path: Path, command: list[str], open_ended: bool, expected: tuple[Any, ...]) -> None:
    started = time.monotonic()
    found = take(Step("some", command, 0, open_ended), tmp_path, 1.0 if command is ENDLESS else 60.0)
    assert (found["exit_code"], found["stopped"], found["good"]) == expected
    assert time.monotonic() - started < 50
    assert ("No module named no_such_module" in (tmp_path / "some.log").read_text()) == (expected[0] == 1)


def test_a_step_that_fails_does_not_keep_others_from_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [Step("first", ["no_such_module"], 60), Step("second", QUICK, 60)]
    monkeypatch.setattr(gpu, "steps", lambda *_, **__: chosen)
    (tmp_path / "data" / "runs").mkdir(parents=True)
    (tmp_path / "data" / "runs" / "a.json").write_text("{}")
    done = CliRunner().invoke(gpu.main, [str(tmp_path / "data"), "-o", str(tmp_path / "out"), "--device", "cpu"])
    assert done.exit_code == 1
    assert "first: failed or took too long" in done.output
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert {name: step["good"] for name, step in found["steps"].items()} == {"first": False, "second": True}
    assert (tmp_path / "out" / "runs" / "a.json").exists()


@pytest.mark.parametrize("tiny", [True, False])
def test_commands_have_options_that_exist(tmp_path: Path, tiny: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class ParsedError(Exception):
        pass

    parse = argparse.ArgumentParser.parse_args

    def parse_only(parser: argparse.ArgumentParser) -> None:
        parse(parser)  # ends the process for options that it does not know
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    *measuring, last = steps(tmp_path, tmp_path, "cpu", 60, tiny=tiny)
    assert [step.name for step in measuring] == ["extract", "overhead"]
    for step in measuring:
        monkeypatch.setattr("sys.argv", step.command)
        with pytest.raises(ParsedError):
            import_module(step.command[0]).main()
    assert last.command[0] == "recipes.ablation.run"
    run_command.make_context("run", last.command[1:])
