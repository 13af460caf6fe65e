"""The figures of the ablation's report, and its page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

from recipes.ablation import report as reporting
from recipes.ablation.arms import ARMS, BASELINE, MASKS, QUESTIONS
from recipes.ablation.log import ROOT, AblationError, Experiment, find_experiment, write_json
from recipes.ablation.report import BEGIN, Answer, answers_of, lacking, put, report, rows_of, summary
from recipes.intervals import Interval, interval

MIXED = "block-area"
RESULTS = ROOT / "recipes" / "ablation" / "results"
SHARED: dict[str, Any] = {
    "classes": 10, "images": 60, "test_images": 10, "epochs": 1, "batch_size": 20, "code": "c" * 64, "data": "d" * 64,
    "versions": {"torch": "2"}, "device": "cpu",
}  # fmt: skip


@pytest.mark.parametrize("values", [[0.1, 0.4], [3.0, 1.0, 2.5, 9.0, -4.0]])
def test_interval_is_scipys(values: list[float]) -> None:
    found = interval(values)
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))  # type: ignore[operator]


def record(arm: str, seed: int, top1: float, student: str = "small_cnn") -> dict[str, Any]:
    found = {"student": student, "arm": arm, "seed": seed, "top1": top1, "seconds": 10 + seed, "command": "run it"}
    return found | {"settings": {"words": ARMS[arm].words}, "machine": {"platform": "P", "instructions": "AVX2"}}


RECORDS = [
    *(record(MIXED, seed, 0.5 + 0.1 * seed + bonus) for seed, bonus in enumerate((0.02, 0.04, 0.03))),
    *(record(BASELINE, seed, 0.5 + 0.1 * seed) for seed in (1, 2)),
    record("block-ideal", 0, 0.7),
    record("block-ideal", 1, 0.8),
    record("mixup", 7, 0.9),
]


def test_differences_are_paired_by_seed() -> None:
    none, area, _, mixup = rows_of(RECORDS)
    assert (none.arm, none.difference, none.seeds) == (BASELINE, None, 2)
    assert (mixup.arm, mixup.difference, mixup.top1.half) == ("mixup", None, None)
    assert (area.arm, area.seeds, area.paired, area.seconds) == (MIXED, 3, 2, 11)
    assert area.difference is not None
    half = stats.t.interval(0.95, 1, 3.5, stats.sem([4, 3]))[1] - 3.5
    assert area.difference.mean == pytest.approx(3.5)
    assert area.difference.half == pytest.approx(half)
    assert area.difference.signed().startswith("+3.5 ± ")


def test_arms_that_lack_runs_are_named() -> None:
    rows = rows_of(RECORDS)
    cnn, vit = lacking("small_cnn", rows), lacking("small_vit", rows)
    assert "Fewer seeds yet: `none` (2 of 3), `block-ideal` (2 of 3), `mixup` (1 of 3). Not run: `block-paper`" in cnn
    assert "`tokenlabeling`" not in cnn.partition("Not for this student")[0]
    assert cnn.endswith("Not for this student, which has no token for each of the mask's: `tokenlabeling`.")
    assert "`tokenlabeling`" in vit
    assert "Not for this student" not in vit


def test_answers_compare_the_seeds_that_both_arms_have() -> None:
    (answer,) = answers_of(RECORDS)  # the others have no runs
    assert (answer.arm, answer.other, answer.paired) == ("block-ideal", MIXED, 2)
    assert answer.gain.mean == pytest.approx((70 - 52 + 80 - 64) / 2)
    wide = answer.gain.half
    assert wide == pytest.approx(stats.t.ppf(0.975, 1) * stats.sem([18, 16]))


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [
        ((2.0, 1.9), "better"), ((-2.0, 1.9), "worse"), ((2.0, 2.0), "not decided"), ((-1.0, 3.0), "not decided"),
        ((9.0, None), "not decided"),
    ],
)  # fmt: skip
def test_verdicts_are_those_of_the_interval(gain: tuple[float, float | None], verdict: str) -> None:
    assert Answer("", "", "", Interval(*gain), 5).verdict() == verdict


def test_every_question_is_about_arms() -> None:
    assert {f"{mask}-{name}" for mask in MASKS for pair in QUESTIONS.values() for name in pair} <= ARMS.keys()


def test_report(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path / "runs" / "abc", SHARED)
    write_json(experiment.folder / "experiment.json", experiment.shared)
    for found in [*RECORDS, record("none", 0, 0.25, "small_vit")]:
        write_json(experiment.folder / found["student"] / f"{found['arm']}-{found['seed']}.json", found)
    page = tmp_path / "results.md"
    done = CliRunner().invoke(
        reporting.main, [str(tmp_path), "-o", str(page), "--json", str(tmp_path / "figures.json")]
    )
    assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "figures.json").read_text())["students"]["small_cnn"]
    assert figures["arms"][MIXED]["top1"]["mean"] == pytest.approx(63)
    assert figures["answers"][f"block-ideal - {MIXED}"]["verdict"] == "better"
    text = page.read_text()
    assert "| `block-area` | block, by area | 3 | 63.0 ± 26.2 | +3.5 ± 6.4 | 2 | 11 |" in text
    assert "| the ideal mask against area | `block-ideal` − `block-area` | +17.0 ± 12.7 | 2 | better |" in text
    assert "| `none` | no mixing | 1 | 25.0 (one seed) | – | 0 | 10 |" in text.partition("### small_vit")[2]
    assert "    run it\n" in text
    assert "c" * 16 in text
    assert (tmp_path / "results.png").stat().st_size > 5000


def test_words_around_the_tables_stay(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    put(page, "first")
    page.write_text(f"Before\n{page.read_text()}after\n")
    put(page, "second")
    assert page.read_text().startswith("Before\n# Results at small scale\n")
    assert page.read_text().endswith("after\n")
    assert "second" in page.read_text()
    assert "first" not in page.read_text()
    page.write_text("Somebody's page")
    with pytest.raises(AblationError, match="page.md: expected the lines <!-- tables"):
        put(page, "third")
    assert page.read_text() == "Somebody's page"


def test_no_runs_is_an_error(tmp_path: Path) -> None:
    done = CliRunner().invoke(reporting.main, [str(tmp_path), "-o", str(tmp_path / "results.md")])
    assert done.exit_code == 1
    assert "expected one experiment, or the name of one, found no name and none" in done.output


def test_the_page_has_the_figures_of_the_logs(tmp_path: Path) -> None:
    experiment = find_experiment(RESULTS, None)
    text = report(experiment, tmp_path / "results.png")
    page = (ROOT / "docs" / "results.md").read_text()
    assert text in page
    assert json.loads((ROOT / "benchmarks" / "results" / "ablation.json").read_text()) == summary(experiment)
    prose = page.partition(BEGIN)[0]
    written = re.findall(r"[+−]?\d+\.\d ± \d+\.\d", prose)
    assert written
    assert [figure for figure in written if figure.lstrip("+−") not in text] == []
