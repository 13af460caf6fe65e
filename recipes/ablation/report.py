"""Tables and a figure of all finished runs: means, paired differences, 95 % intervals.

    python -m recipes.ablation.report FOLDER -o docs/results.md

What stands around the tables in the page is written by hand, and stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import click
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recipes.ablation.arms import ARMS, BASELINE, MASKS, QUESTIONS
from recipes.ablation.log import AblationError, Experiment, Record, find_experiment, write_json
from recipes.ablation.training import STUDENTS
from recipes.evaluate.drawing import COLOURS, save
from recipes.intervals import Interval, interval

Scores = Mapping[int, float]  # seed -> top-1 in percent
BEGIN: Final = "<!-- tables: python -m recipes.ablation.report -->\n"
END: Final = "<!-- /tables -->\n"


@dataclass(frozen=True)
class Row:
    """One arm of one student; `difference` is that to the baseline over the `paired` seeds that both have."""

    arm: str
    seeds: int
    top1: Interval
    difference: Interval | None
    paired: int
    seconds: float


@dataclass(frozen=True)
class Answer:
    """To a question of QUESTIONS, for one kind of mixing: `gain` of top-1 over `paired` seeds."""

    question: str
    arm: str
    other: str
    gain: Interval
    paired: int

    def verdict(self) -> str:
        """What the 95 % interval says."""
        if self.gain.half is None or abs(self.gain.mean) <= self.gain.half:
            return "not decided"
        return "better" if self.gain.mean > 0 else "worse"


def scores_of(records: Sequence[Record]) -> dict[str, dict[int, float]]:
    """Top-1 in percent of each arm and seed, of one student, in the order of ARMS."""
    found: dict[str, dict[int, float]] = {}
    for record in records:
        found.setdefault(record["arm"], {})[record["seed"]] = 100 * record["top1"]
    return {arm: found[arm] for arm in [*(arm for arm in ARMS if arm in found), *sorted(found.keys() - ARMS.keys())]}


def gains(own: Scores, other: Scores) -> list[float]:
    """Differences over the seeds that both have."""
    return [own[seed] - other[seed] for seed in sorted(own.keys() & other.keys())]


def rows_of(records: Sequence[Record]) -> list[Row]:
    """Of one student; arms without any run are left out, and named by `lacking`."""
    scores, rows = scores_of(records), []
    for arm, own in scores.items():
        found = gains(own, scores.get(BASELINE, {})) if arm != BASELINE else []
        seconds = fmean(record["seconds"] for record in records if record["arm"] == arm)
        difference = interval(found) if found else None
        rows.append(Row(arm, len(own), interval([*own.values()]), difference, len(found), seconds))
    return rows


def answers_of(records: Sequence[Record]) -> list[Answer]:
    """All questions that runs of one student can answer."""
    scores, answers = scores_of(records), []
    for mask in MASKS:
        for question, names in QUESTIONS.items():
            arm, other = (f"{mask}-{name}" for name in names)
            found = gains(scores.get(arm, {}), scores.get(other, {}))
            if found:
                answers.append(Answer(question, arm, other, interval(found), len(found)))
    return answers


def table(rows: Sequence[Row], words: Mapping[str, str]) -> list[str]:
    """Lines of Markdown."""
    lines = [
        f"| arm | | seeds | top-1, % | difference to `{BASELINE}`, points | paired seeds | s per run |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        difference = row.difference.signed() if row.difference else "–"
        lines.append(
            f"| `{row.arm}` | {words[row.arm]} | {row.seeds} | {row.top1} | {difference} | {row.paired} | "
            f"{row.seconds:.0f} |"
        )
    return lines


def answer_table(answers: Sequence[Answer]) -> list[str]:
    """Lines of Markdown."""
    return [
        "| question | arms | difference, points | paired seeds | |",
        "|---|---|---:|---:|---|",
        *(
            f"| {answer.question} | `{answer.arm}` − `{answer.other}` | {answer.gain.signed()} | {answer.paired} | "
            f"{answer.verdict()} |"
            for answer in answers
        ),
    ]


def lacking(student: str, rows: Sequence[Row]) -> str:
    """Sentences on arms with fewer seeds than others, with none, and that do not fit the student; empty if none."""
    most = max(row.seeds for row in rows)
    seeds = dict.fromkeys(ARMS, 0) | {row.arm: row.seeds for row in rows}
    fewer = [f"`{arm}` ({count} of {most})" for arm, count in seeds.items() if 0 < count < most]
    fits = {arm: STUDENTS[student].fits(ARMS[arm]) for arm, count in seeds.items() if not count}
    none = {answer: ", ".join(f"`{arm}`" for arm, found in fits.items() if found is answer) for answer in (True, False)}
    parts = [f"Fewer seeds yet: {', '.join(fewer)}."] if fewer else []
    parts += [f"Not run: {none[True]}."] if none[True] else []
    parts += [f"Not for this student, which has no token for each of the mask's: {none[False]}."] if none[False] else []
    return " ".join(parts)


def draw(tables: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Paired differences with their intervals, a panel per student."""
    most = max(len(rows) for rows in tables.values())
    figure = Figure(figsize=(4.4 * len(tables), 1.2 + 0.27 * most), layout="constrained")
    panels = figure.subplots(1, len(tables), squeeze=False)[0]
    for axes, colour, (student, rows) in zip(panels, COLOURS, tables.items(), strict=False):
        _panel(axes, student, rows, colour, most)
    save(figure, path)


def _panel(axes: Axes, student: str, rows: Sequence[Row], colour: str, most: int) -> None:
    """Lines are as far apart as in the panel with the most."""
    shown = [(row.arm, row.difference) for row in reversed(rows) if row.difference]
    for place, (_, gain) in enumerate(shown):
        axes.errorbar(gain.mean, place, xerr=gain.half, fmt="o", color=colour, capsize=3)
    axes.axvline(0, color="0.5", linewidth=1)
    axes.set_ylim(len(shown) - most, len(shown))
    axes.set_yticks(range(len(shown)), [arm for arm, _ in shown], fontsize=8)
    axes.set_xlabel(f"top-1 minus that of {BASELINE}, points", fontsize=8)
    axes.set_title(f"{student}: mean and 95 % interval", fontsize=9)


def report(experiment: Experiment, figure: Path) -> str:
    """Markdown, which shows `figure` from beside it; draws that too. Raises AblationError where no run is finished."""
    records = experiment.records()
    if not records:
        raise AblationError(f"{experiment.folder}: expected finished runs, found none; run recipes.ablation.run first")
    by_student = {
        name: [record for record in records if record["student"] == name]
        for name in sorted({record["student"] for record in records})
    }
    tables = {name: rows_of(found) for name, found in by_student.items()}
    draw(tables, figure)
    words = {record["arm"]: record["settings"]["words"] for record in records}
    words |= {name: arm.words for name, arm in ARMS.items()}  # as they are called now
    lines = [
        *_introduction(experiment, records),
        "",
        f"![Points of top-1 that each arm gains over no mixing, with intervals]({figure.name})",
    ]
    for student, rows in tables.items():
        lines += ["", f"### {student}", "", *table(rows, words)]
        lines += ["", lacking(student, rows)] * bool(lacking(student, rows))
        lines += ["", *answer_table(answers_of(by_student[student]))]
    return "\n".join(lines) + "\n"


def summary(experiment: Experiment) -> dict[str, Any]:
    """The figures as JSON: top-1 of arms and gains of questions, in points, each with half of its interval."""
    found: dict[str, Any] = {"students": {}, "shared": dict(experiment.shared)}
    records = experiment.records()
    for student in sorted({record["student"] for record in records}):
        own = [record for record in records if record["student"] == student]
        found["students"][student] = {
            "arms": {row.arm: asdict(row) for row in rows_of(own)},
            "answers": {
                f"{a.arm} - {a.other}": asdict(a) | {"text": a.gain.signed(), "verdict": a.verdict()}
                for a in answers_of(own)
            },
        }
    return found


def _introduction(experiment: Experiment, records: Sequence[Record]) -> list[str]:
    shared = experiment.shared
    versions = ", ".join(f"{name} {found}" for name, found in shared["versions"].items())
    machines = sorted({f"{run['machine']['platform']}, {run['machine']['instructions']}" for run in records})
    return [
        f"{shared['classes']} classes of cut-outs on photographs, {shared['images']} images of training, "
        f"{shared['test_images']} of test on other photographs; epochs: {shared['epochs']}, batches of "
        f"{shared['batch_size']}. Each mean has its 95 % interval over seeds (Student's t). Arms of one seed share "
        "weights at the start, order and crops, so that differences are paired by seed.",
        "",
        *(f"    {command}" for command in sorted({run["command"] for run in records})),
        "",
        f"Experiment {experiment.folder.name}; digest of the code {shared['code'][:16]}, of the images "
        f"{shared['data'][:16]}; {versions}; {len(records)} runs on {shared['device']}: {'; '.join(machines)}, one "
        "thread each.",
    ]


def put(page: Path, text: str) -> None:
    """Write `text` between the marks of a page, or as a new page. Raises AblationError for a page without marks."""
    found = page.read_text() if page.exists() else f"# Results at small scale\n\n{BEGIN}{END}"
    before, begin, rest = found.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise AblationError(f"{page}: expected the lines {BEGIN.strip()} and {END.strip()}, found none; choose another")
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


@click.command(help="Write a report of the runs in FOLDER, and its figure beside it.")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True)
@click.option("--json", "as_json", type=click.Path(dir_okay=False, path_type=Path), help="Also write the figures here.")
@click.option("--experiment", help="Which, where FOLDER has runs of several settings.")
def main(folder: Path, output: Path, as_json: Path | None, experiment: str | None) -> None:
    """Shell over `report`."""
    try:
        chosen = find_experiment(folder, experiment)
        put(output, report(chosen, output.with_suffix(".png")))
        if as_json:
            write_json(as_json, summary(chosen))
    except (AblationError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{output}, {output.with_suffix('.png')}")


if __name__ == "__main__":
    main()
