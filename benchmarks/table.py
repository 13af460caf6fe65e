"""The tables of measured figures, made from benchmarks/results/*.json: some in the README, all in docs/figures.md.

python -m benchmarks.table            # rewrites both
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

README = Path(__file__).parents[1] / "README.md"
PAGE = README.parent / "docs" / "figures.md"
RESULTS = Path(__file__).parent / "results"
BEGIN, END = "<!-- figures: python -m benchmarks.table -->\n", "<!-- /figures -->"


class Figure(NamedTuple):
    """One line: what was measured, the result file, the way to the number in it, how it is written.

    `in_readme`: what the README calls it, where rows before it may be missing; empty: only the page has it.
    """

    what: str
    script: str
    path: tuple[str | int, ...]
    form: str
    in_readme: str = ""


# What a figure is called by: the script, and its arguments.
COMMANDS = {
    "ablation": "recipes.ablation.run FOLDER --arms all",
    "evidence": "benchmarks.evidence FOLDER",
    "evidence_large": "benchmarks.evidence FOLDER --object-share .75 1 --count 108 --teachers efficientnet_lite0 "
    "--kinds label cam 'cam, rivals 0' 'cam, fused only' --out benchmarks/results/evidence_large.json",
    "extract_gpu": "benchmarks.extract --device cuda --amp bf16 --batch-size 64 --workers 15",
    "fidelity": "benchmarks.fidelity demo/images demo/maps",
    "overhead": "benchmarks.overhead --steps 170",
    "overhead_gpu": "benchmarks.overhead --model deit_small_patch16_224 --batch-size 1024",
}
AUGMENTED = ("augmentations", "RandAugment")
CROP = ("views", "random crop", "targets")
LITE0 = ("teachers", "efficientnet_lite0", "targets")
LITE2 = ("teachers", "efficientnet_lite2", "targets")
STUDENTS = {"small_vit": "transformer", "small_cnn": "CNN"}
SCORES = {"paper": "the paper's evidence", "fused": "`cam --scales 1,2 --no-spread --rivals 0`",
          "cam": "`cam --scales 1,2`", "ideal": "true masks"}  # fmt: skip
FIGURES = (
    *(Figure(what := f"points of top-1 that a small {student} gains by scores of {score} over scores by area",
             "ablation", ("students", name, "answers", f"block-{arm} - block-area", "text"), "{}", in_readme=what)
      for name, student in STUDENTS.items() for arm, score in SCORES.items()),
    Figure("error of a score in shares of the area score's: objects, EfficientNet-lite0, paper's evidence", "evidence",
           (*LITE0, "label, logit", "ratio_to_area"), "{:.3f}",
           in_readme="error of a score: objects, EfficientNet-lite0, kind `label`, the paper's evidence"),
    Figure("the same, kind `cam` as it comes", "evidence", (*LITE0, "cam, contrast", "ratio_to_area"), "{:.3f}",
           in_readme='error of a score: the same teacher, kind `cam`'),
    Figure("the same with `--scales 1,2`", "evidence",
           (*LITE0, "cam, scales 1,2, contrast", "ratio_to_area"), "{:.3f}",
           in_readme='error of a score: the same teacher, kind `cam` with `--scales 1,2`'),
    Figure("the same, objects that fill the image, lite0, paper's evidence", "evidence_large",
           (*LITE0, "label, logit", "ratio_to_area"), "{:.3f}"),
    Figure("the same, kind `cam` as it comes", "evidence_large", (*LITE0, "cam, contrast", "ratio_to_area"), "{:.3f}",
           in_readme="error of a score: the same teacher, kind `cam`, objects that fill the image"),
    Figure("the same, EfficientNet-lite2, paper's evidence", "evidence",
           (*LITE2, "label, logit", "ratio_to_area"), "{:.3f}"),
    Figure("the same, kind `cam` as it comes", "evidence", (*LITE2, "cam, contrast", "ratio_to_area"), "{:.3f}"),
    Figure("the same with `--scales 1,2`", "evidence",
           (*LITE2, "cam, scales 1,2, contrast", "ratio_to_area"), "{:.3f}"),
    Figure("the same, a centred Gaussian instead of maps", "evidence",
           (*LITE0, "centred Gaussian", "ratio_to_area"), "{:.3f}"),
    Figure("digits, the demo's teacher, paper's evidence", "fidelity",
           (*CROP, "TokenMix, logit", "ratio_to_area"), "{:.2f}"),
    Figure("the same, evidence `contrast`", "fidelity", (*CROP, "TokenMix, contrast", "ratio_to_area"), "{:.2f}"),
    Figure("the same, ideal 18 x 18 map: what our geometry alone costs", "fidelity",
           (*CROP, "ideal 18 x 18", "ratio_to_area"), "{:.3f}",
           in_readme='error of a score: digits, ideal 18 x 18 map, so of our geometry alone'),
    Figure("the same, with RandAugment's geometry", "geometry",
           (*AUGMENTED, "targets", "exact", "ratio_to_area"), "{:.3f}"),
    Figure("the same ideal map in the scheme of the published code", "geometry",
           (*AUGMENTED, "targets", "published", "ratio_to_area"), "{:.2f}",
           in_readme='error of a score: that ideal map in the scheme of the published code'),
    Figure("a landmark under RandAugment, mean error in px of 224", "geometry",
           (*AUGMENTED, "landmarks_px", "mean"), "{:.3f}"),
    Figure("reading a map in a batch of 256 over 64 shards, in raw `pread`s of its bytes", "read",
           ("ratio_to_pread", "ours, batch of 256"), "{:.2f}",
           in_readme='reading a map in a batch of 256, in raw `pread`s of its bytes'),
    Figure("the same cold, in random `pread`s as cold", "read",
           ("ratio_to_cold_pread", "ours, batch of 256"), "{:.2f}"),
    Figure("the same map through h5py's indexing", "read", ("ratio_to_pread", "h5py indexing"), "{:.1f}"),
    Figure("the same map from LMDB", "read", ("ratio_to_pread", "LMDB"), "{:.2f}"),
    Figure("the same map from one `.pt` per image", "read", ("ratio_to_pread", "one .pt per image"), "{:.0f}",
           in_readme='reading a map from one `.pt` per image, as published, in `pread`s'),
    Figure("reading maps, share of decoding + DeiT's augmentation + collate", "overhead",
           ("cpu", "reading_share"), "{:.3%}"),
    Figure("the same with alignment, masks and targets", "overhead", ("cpu", "scored_share"), "{:.2%}"),
    Figure("the same without numba", "overhead", ("cpu", "scored_share_without_numba"), "{:.2%}"),
    Figure("all that maps add to it, with tracing the transform too", "overhead", ("cpu", "by_maps_share"), "{:.2%}",
           in_readme="all that maps add to decoding + DeiT's augmentation + collate"),
    Figure("that pipeline over timm's own with CutMix", "overhead", ("cpu", "whole_ratio"), "{:.3f}"),
    Figure("a training step with TokenMix in the loader over one with timm's CutMix", "overhead",
           ("steps", -1, "ratio_in_loader", "median"), "{:.3f}",
           in_readme="a training step with TokenMix in the loader over one with timm's CutMix"),
    Figure("aligning a map, times cheaper than RoIAlign of a map per class, as published", "overhead",
           ("align", "times_cheaper"), "{:.0f}"),
    Figure("what dtype `uint8`, 328 bytes per map, adds to the error of a score", "quantise",
           ("label", "logit", "uint8", "score_mean"), "{:.4f}"),
    Figure("bits flipped at random that `verify` finds and names by shard and row, of 10,000", "integrity",
           ("flips", "found"), "{:,}",
           in_readme='bits flipped at random that `verify` finds and names, of 10,000'),
    Figure("`tokenmix status` of ImageNet-1k's 313 shards, seconds", "scale",
           ("stores", "ImageNet-1k", "status", "seconds"), "{:.2f}"),
    Figure("opening ImageNet-1k's maps for training, seconds", "scale",
           ("stores", "ImageNet-1k", "open", "seconds"), "{:.2f}",
           in_readme="opening ImageNet-1k's maps for training, seconds"),
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
           ("cases", "light", "job_by_decode"), "{:.2f}",
           in_readme='the whole job over decoding alone, a light teacher'),
    Figure("the job's CPU time over that of decoding and the teacher alone, a light teacher", "extract",
           ("cases", "light", "cpu_of_job_by_its_parts"), "{:.2f}"),
    Figure("the whole job on an H200, ResNet-101, images per second (decoding with 15 processes is the limit)",
           "extract_gpu", ("cases", "light", "images_per_s", "job"), "{:.0f}",
           in_readme='images per second of the whole job on an H200, ResNet-101'),
    Figure("the same with NFNet-F6 at 576 px", "extract_gpu", ("cases", "heavy", "images_per_s", "job"), "{:.0f}",
           in_readme='images per second of the whole job on an H200, NFNet-F6 at 576 px'),
    # measured before kind cam was spread and contested
    Figure("kind `cam --no-spread --rivals 0` over kind `label` there, time per image, ResNet-101", "extract_gpu",
           ("kinds", "resnet101", "time_over_label", "cam"), "{:.2f}"),
    Figure("the same with `--scales 1,2`", "extract_gpu",
           ("kinds", "resnet101", "time_over_label", "cam, scales 1,2"), "{:.1f}"),
    *(Figure(f"kind `{kind}` over kind `label` on the CPU, time per image, {name}", "extract",
             ("kinds", model, "time_over_label", key), "{:.1f}")
      for model, name in {"efficientnet_lite0": "EfficientNet-lite0", "resnet101": "ResNet-101"}.items()
      for kind, key in {"cam --no-spread --rivals 0": "cam, fused only", "cam": "cam",
                        "cam --scales 1,2": "cam, scales 1,2"}.items()),
    Figure("a step of DeiT-S on an H200, batch 1,024, TokenMix in the loader over CutMix", "overhead_gpu",
           ("steps", -1, "ratio_in_loader", "median"), "{:.3f}"),
    Figure("growth of the job's memory over 20,000 images, MB", "memory", ("growth_mb",), "{:.1f}"),
    Figure("timm's 95 modules with classifiers: those with an exact teacher", "teachers", ("exact",), "{}",
           in_readme="timm's 95 modules with classifiers: those with an exact teacher"),
)  # fmt: skip


def table(*, short: bool = False) -> str:
    """Markdown, `short` as the README has it.

    Raises FileNotFoundError for what was not measured, KeyError for a result without the field.
    """
    lines = ["| measured | figure | command |", "|---|---|---|"]
    for figure in FIGURES:
        what = figure.in_readme if short else figure.what
        if what:
            value: Any = json.loads((RESULTS / f"{figure.script}.json").read_text())
            for name in figure.path:
                value = value[name]
            command = COMMANDS.get(figure.script, f"benchmarks.{figure.script}")
            lines.append(f"| {what} | {figure.form.format(value)} | `python -m {command}` |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Rewrite what stands between the two comments of each file."""
    for path, short in ((README, True), (PAGE, False)):
        before, _, rest = path.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        path.write_text(before + BEGIN + table(short=short) + END + after)


if __name__ == "__main__":
    main()
