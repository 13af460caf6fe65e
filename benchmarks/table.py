"""The README's table of measured figures, made from benchmarks/results/*.json.

python -m benchmarks.table            # rewrites the table in README.md
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

README = Path(__file__).parents[1] / "README.md"
RESULTS = Path(__file__).parent / "results"
BEGIN, END = "<!-- figures: python -m benchmarks.table -->\n", "<!-- /figures -->"


class Figure(NamedTuple):
    """One line of the table: what was measured, the result file, the way to the number in it, how it is written."""

    what: str
    script: str
    path: tuple[str, ...]
    form: str


COMMANDS = {"fidelity": "python -m benchmarks.fidelity demo/images demo/maps", "read": "python -m benchmarks.read"}
CROP = ("views", "random crop", "targets")
FIGURES = (
    Figure("error of a score, paper's evidence, in shares of the area score's error", "fidelity",
           (*CROP, "TokenMix, logit", "ratio_to_area"), "{:.2f}"),
    Figure("the same, evidence `contrast`", "fidelity", (*CROP, "TokenMix, contrast", "ratio_to_area"), "{:.2f}"),
    Figure("the same, ideal 18 x 18 map: what our geometry alone costs", "fidelity",
           (*CROP, "ideal 18 x 18", "ratio_to_area"), "{:.3f}"),
    Figure("reading one map, in raw `pread`s of its bytes", "read", ("ratio_to_pread", "ours, one row"), "{:.2f}"),
    Figure("the same in a batch of 256 over 64 shards", "read", ("ratio_to_pread", "ours, batch of 256"), "{:.2f}"),
    Figure("the same through h5py's indexing", "read", ("ratio_to_pread", "h5py indexing"), "{:.1f}"),
    Figure("the same from one `.pt` per image", "read", ("ratio_to_pread", "one .pt per image"), "{:.0f}"),
)  # fmt: skip


def table() -> str:
    """Markdown; raises FileNotFoundError for what nobody has measured, KeyError for a result without the field."""
    lines = ["| measured | figure | command |", "|---|---|---|"]
    for what, script, path, form in FIGURES:
        value: Any = json.loads((RESULTS / f"{script}.json").read_text())
        for name in path:
            value = value[name]
        lines.append(f"| {what} | {form.format(value)} | `{COMMANDS[script]}` |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Rewrite the part of the README between the two comments."""
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(before + BEGIN + table() + END + after)


if __name__ == "__main__":
    main()
