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
    path: tuple[str | int, ...]
    form: str


ARGUMENTS = {"fidelity": " demo/images demo/maps", "overhead": " --steps 170"}
AUGMENTED = ("augmentations", "RandAugment")
CROP = ("views", "random crop", "targets")
FIGURES = (
    Figure("error of a score, paper's evidence, in shares of the area score's error", "fidelity",
           (*CROP, "TokenMix, logit", "ratio_to_area"), "{:.2f}"),
    Figure("the same, evidence `contrast`", "fidelity", (*CROP, "TokenMix, contrast", "ratio_to_area"), "{:.2f}"),
    Figure("the same, ideal 18 x 18 map: what our geometry alone costs", "fidelity",
           (*CROP, "ideal 18 x 18", "ratio_to_area"), "{:.3f}"),
    Figure("the same, with RandAugment's geometry", "geometry",
           (*AUGMENTED, "targets", "exact", "ratio_to_area"), "{:.3f}"),
    Figure("the same ideal map in the scheme of the published code", "geometry",
           (*AUGMENTED, "targets", "published", "ratio_to_area"), "{:.2f}"),
    Figure("a landmark under RandAugment, mean error in px of 224", "geometry",
           (*AUGMENTED, "landmarks_px", "mean"), "{:.3f}"),
    Figure("reading a map in a batch of 256 over 64 shards, in raw `pread`s of its bytes", "read",
           ("ratio_to_pread", "ours, batch of 256"), "{:.2f}"),
    Figure("the same cold, in random `pread`s as cold", "read",
           ("ratio_to_cold_pread", "ours, batch of 256"), "{:.2f}"),
    Figure("the same map through h5py's indexing", "read", ("ratio_to_pread", "h5py indexing"), "{:.1f}"),
    Figure("the same map from LMDB", "read", ("ratio_to_pread", "LMDB"), "{:.2f}"),
    Figure("the same map from one `.pt` per image", "read", ("ratio_to_pread", "one .pt per image"), "{:.0f}"),
    Figure("reading maps, share of decoding + DeiT's augmentation + collate", "overhead",
           ("cpu", "reading_share"), "{:.3%}"),
    Figure("the same with alignment, masks and targets", "overhead", ("cpu", "scored_share"), "{:.2%}"),
    Figure("the same without numba", "overhead", ("cpu", "scored_share_without_numba"), "{:.2%}"),
    Figure("all that maps add to it, with tracing the transform too", "overhead", ("cpu", "by_maps_share"), "{:.2%}"),
    Figure("that pipeline over timm's own with CutMix", "overhead", ("cpu", "whole_ratio"), "{:.3f}"),
    Figure("a training step with TokenMix in the loader over one with timm's CutMix", "overhead",
           ("steps", -1, "ratio_in_loader", "median"), "{:.3f}"),
    Figure("aligning a map, times cheaper than RoIAlign of a map per class, as published", "overhead",
           ("align", "times_cheaper"), "{:.0f}"),
    Figure("what dtype `uint8`, 328 bytes per map, adds to the error of a score", "quantise",
           ("label", "logit", "uint8", "score_mean"), "{:.4f}"),
    Figure("bits flipped at random that `verify` finds and names by shard and row, of 10,000", "integrity",
           ("flips", "found"), "{:,}"),
    Figure("`tokenmix status` of ImageNet-1k's 313 shards, seconds", "scale",
           ("stores", "ImageNet-1k", "status", "seconds"), "{:.2f}"),
    Figure("opening ImageNet-1k's maps for training, seconds", "scale",
           ("stores", "ImageNet-1k", "open", "seconds"), "{:.2f}"),
    Figure("private memory that a loading worker adds, MB", "workers", ("private MB per fork worker",), "{:.2f}"),
    Figure("copies of the maps that 8 ranks of a node hold", "workers",
           ("copies of the maps that 8 ranks hold",), "{:.2f}"),
    Figure("importing published `.pt` maps, images per second and core", "convert",
           ("today's", "imported_per_core_second"), "{}"),
    Figure("what `--amp bf16` adds to the error of a score, absolute", "precision",
           ("teachers", "trained", "bf16", "logit", "score", "mean"), "{:.4f}"),
    Figure("the whole job over the bare forward pass, ResNet-101 on a CPU", "extract",
           ("cases", "heavy", "job_by_forward"), "{:.2f}"),
    Figure("the whole job over decoding alone, a light teacher", "extract",
           ("cases", "light", "job_by_decode"), "{:.2f}"),
    Figure("the job's CPU time over that of decoding and the teacher alone, a light teacher", "extract",
           ("cases", "light", "cpu_of_job_by_its_parts"), "{:.2f}"),
    Figure("growth of the job's memory over 20,000 images, MB", "memory", ("growth_mb",), "{:.1f}"),
    Figure("timm's 95 modules with classifiers: those with an exact teacher", "teachers", ("exact",), "{}"),
)  # fmt: skip


def table() -> str:
    """Markdown; raises FileNotFoundError for what nobody has measured, KeyError for a result without the field."""
    lines = ["| measured | figure | command |", "|---|---|---|"]
    for what, script, path, form in FIGURES:
        value: Any = json.loads((RESULTS / f"{script}.json").read_text())
        for name in path:
            value = value[name]
        lines.append(f"| {what} | {form.format(value)} | `python -m benchmarks.{script}{ARGUMENTS.get(script, '')}` |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Rewrite the part of the README between the two comments."""
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(before + BEGIN + table() + END + after)


if __name__ == "__main__":
    main()
