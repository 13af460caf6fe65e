"""`--json`: one object with the keys that the page promises, nothing beside it, and the exit status of old."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from extract.audit.run_again import RerunReport
from extract.audit.verdict import Verdict
from recipes.context_digits.generate import generate
from store import VerifyReport, read_header
from store.problems import Cause
from tests.tokenmix_commands.conftest import QUICK, TEACHER, tokenmix
from tokenmix_commands.output.for_programs import bench_values, info_values, print_json, verdict_values
from tokenmix_loader.bench import BenchReport, Cost

PAGE = Path(__file__).parents[3] / "docs" / "command-line.md"


def promised(command: str) -> set[str]:
    """The keys in the page's row of a command; `scripts` and what is behind it are of another call."""
    row = re.search(rf"^\| `{command} --json` \|(.*?)(;.*)?\|$", PAGE.read_text(), re.M)
    assert row is not None, command
    return {*re.findall(r"`(\w+)`", row.group(1))}


def answer(*arguments: object, code: int = 0) -> dict[str, Any]:
    """What a command prints on stdout, and nothing but that."""
    done = tokenmix(*arguments, "--json")
    assert done.exit_code == code, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_plan(images: Path) -> None:
    found = answer("plan", images, *QUICK)
    assert found.keys() == promised("plan")
    assert (found["rows"], found["classes"], found["shards"], found["grid"]) == (20, 10, 3, [2, 2])
    assert found["hours"] == pytest.approx(20 / min(found["decoding_rate"], found["teacher_rate"]) / 3600)


def test_submit(images: Path, tmp_path: Path) -> None:
    found = answer("submit", images, tmp_path / "new", *QUICK, "--tasks", 2, "--dry-run")
    assert found.keys() == {"scripts"}
    assert "#SBATCH --array=0-1\n" in found["scripts"][0]


def test_status_and_info(maps: Path) -> None:
    status, info = answer("status", maps), answer("info", maps)
    assert status.keys() == promised("status")
    assert status["rows_done"] == info["rows"] == 20
    assert promised("info") <= info.keys()
    assert info == json.loads(json.dumps(info_values(maps, read_header(maps))))
    assert {*read_header(maps).__dataclass_fields__} <= info.keys()


def test_fit_head(images: Path, tmp_path: Path) -> None:
    found = answer("fit-head", images, "-o", tmp_path / "head.safetensors", *TEACHER)
    assert found.keys() == promised("fit-head")
    assert (found["classes"], found["path"]) == (10, str(tmp_path / "head.safetensors"))
    assert found["accuracy"].keys() == {"images", "classes", "top1", "balanced"}


def test_verify(images: Path, tmp_path: Path) -> None:
    store = tmp_path / "maps"
    assert tokenmix("extract", images, store, *QUICK).exit_code == 0
    found = answer("verify", store)
    assert found.keys() == promised("verify")
    assert (found["ok"], found["rows"], found["problems"], found["deep"]) == (True, 20, [], None)

    (store / "shard-00001.h5").unlink()
    generate(tmp_path / "other", 20, seed=1, split="train")
    found = answer("verify", store, "--images", tmp_path / "other" / "images", code=1)
    assert found["ok"] is False
    missing, other = found["problems"]
    assert {**missing, "message": ""} == {
        "cause": "missing_shard", "file": "shard-00001.h5", "shard": 1, "row": None, "key": None, "message": "",
    }  # fmt: skip
    assert Cause[missing["cause"].upper()] is Cause.MISSING_SHARD
    assert other.keys() == missing.keys()
    assert other["cause"] is None
    assert "dataset.digest" in other["message"]


def test_the_teacher_run_again() -> None:
    rerun = RerunReport(rows=2, max_error=0.5, tolerance=0.01, problems=("row 1, key 'a': differs",))
    found = verdict_values(Verdict(VerifyReport(9, 1, 0, ()), rerun.problems, (), deep=rerun))
    assert found["deep"] == {"rows": 2, "max_error": 0.5, "tolerance": 0.01}
    assert [problem["message"] for problem in found["problems"]] == [*rerun.problems]


def test_bench() -> None:
    found = bench_values(BenchReport(7, Cost(1, 2), Cost(3, 4), Cost(5, 6)))
    assert found.keys() == promised("bench")
    assert found["with_cold_maps"] == {"wall_ms": 5, "cpu_ms": 6}


def test_after_an_error_there_is_nothing_to_read(tmp_path: Path) -> None:
    for command in (["status"], ["info"], ["verify"]):
        done = tokenmix(*command, tmp_path / "none", "--json")
        assert (done.exit_code, done.stdout) == (1, "")
        assert "tokenmix: error: " in done.stderr


def test_what_json_has_no_word_for_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        print_json({"rate": float("nan")})
    assert capsys.readouterr().out == ""
