"""Tables and a figure of all finished runs: means, paired differences, 95 % intervals.

python -m recipes.ablation.report FOLDER -o docs/results.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import click
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recipes.ablation.arms import ARMS, BASELINE
from recipes.ablation.log import AblationError, Experiment, Record, find_experiment
from recipes.evaluate.drawing import COLOURS, save
from recipes.intervals import Interval, interval

Scores = Mapping[int, float]  # seed -> top-1 in percent


@dataclass(frozen=True)
class Row:
    """One arm of one student; `difference` is that to the baseline over the `paired` seeds that both have."""

    arm: str
    seeds: int
    top1: Interval
    difference: Interval | None
    paired: int
    seconds: float


def rows_of(records: Sequence[Record]) -> list[Row]:
    """Of one student, in the order of ARMS; arms without any run are left out, and named by `lacking`."""
    runs: dict[str, list[Record]] = {}
    for record in records:
        runs.setdefault(record["arm"], []).append(record)
    scores = {arm: {run["seed"]: 100 * run["top1"] for run in found} for arm, found in runs.items()}
    return [
        _row(arm, scores[arm], scores.get(BASELINE, {}), fmean(run["seconds"] for run in runs[arm]))
        for arm in [*(arm for arm in ARMS if arm in runs), *sorted(runs.keys() - ARMS.keys())]
    ]


def _row(arm: str, own: Scores, baseline: Scores, seconds: float) -> Row:
    gains = [own[seed] - baseline[seed] for seed in sorted(own.keys() & baseline.keys())]
    difference = interval(gains) if gains and arm != BASELINE else None
    return Row(arm, len(own), interval([*own.values()]), difference, len(gains), seconds)


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


def lacking(rows: Sequence[Row]) -> str:
    """A sentence on arms with fewer seeds than others, and those with none; empty if there are no such arms."""
    most = max(row.seeds for row in rows)
    seeds = dict.fromkeys(ARMS, 0) | {row.arm: row.seeds for row in rows}
    fewer = [f"`{arm}` ({count} of {most})" for arm, count in seeds.items() if 0 < count < most]
    none = [f"`{arm}`" for arm, count in seeds.items() if not count]
    parts = [f"Fewer seeds yet: {', '.join(fewer)}."] * bool(fewer) + [f"Not run: {', '.join(none)}."] * bool(none)
    return " ".join(parts)


def draw(tables: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Paired differences with their intervals, a panel per student."""
    most = max(len(rows) for rows in tables.values())
    figure = Figure(figsize=(4.2 * len(tables), 1.2 + 0.27 * most), layout="constrained")
    panels = figure.subplots(1, len(tables), squeeze=False)[0]
    for axes, colour, (student, rows) in zip(panels, COLOURS, tables.items(), strict=False):
        _panel(axes, student, rows, colour)
    save(figure, path)


def _panel(axes: Axes, student: str, rows: Sequence[Row], colour: str) -> None:
    shown = [(row.arm, row.difference) for row in reversed(rows) if row.difference]
    for place, (_, gain) in enumerate(shown):
        axes.errorbar(gain.mean, place, xerr=gain.half, fmt="o", color=colour, capsize=3)
    axes.axvline(0, color="0.5", linewidth=1)
    axes.set_yticks(range(len(shown)), [arm for arm, _ in shown], fontsize=8)
    axes.set_xlabel(f"top-1 minus that of {BASELINE}, points", fontsize=8)
    axes.set_title(f"{student}: mean and 95 % interval", fontsize=9)


def report(experiment: Experiment, figure: Path) -> str:
    """Markdown, which shows `figure` from beside it; draws that too. Raises AblationError where no run is finished."""
    records = experiment.records()
    if not records:
        raise AblationError(f"{experiment.folder}: expected finished runs, found none; run recipes.ablation.run first")
    students = sorted({record["student"] for record in records})
    tables = {name: rows_of([record for record in records if record["student"] == name]) for name in students}
    draw(tables, figure)
    words = {record["arm"]: record["settings"]["words"] for record in records}
    lines = ["# Results at small scale", "", *_introduction(experiment, records), "", f"![Differences]({figure.name})"]
    for student, rows in tables.items():
        lines += ["", f"## {student}", "", *table(rows, words)]
        lines += ["", lacking(rows)] * bool(lacking(rows))
    return "\n".join(lines) + "\n"


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
        f"{shared['data'][:16]}; {versions}; {len(records)} runs on {'; '.join(machines)}, one thread each.",
    ]


@click.command(help="Write a report of the runs in FOLDER, and its figure beside it.")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True)
@click.option("--experiment", help="Which, where FOLDER has runs of several settings.")
def main(folder: Path, output: Path, experiment: str | None) -> None:
    """Shell over `report`."""
    try:
        text = report(find_experiment(folder, experiment), output.with_suffix(".png"))
        output.write_text(text)
    except (AblationError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{output}, {output.with_suffix('.png')}")


if __name__ == "__main__":
    main()
