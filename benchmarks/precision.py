"""What half precision costs in maps and TokenMix scores, and what averaging with the mirror image gains.

    python -m benchmarks.precision           # minutes; writes benchmarks/results/precision.json

Every teacher looks at the same photographs in float32, under autocast (bf16, fp16), and in float32 with its maps
rounded to float16 as the store keeps them. Those with random weights are there for their depth and for a linearised
head; only the trained one's maps mean something. A map's error is the share of its mass that lies elsewhere, a
score's is absolute, with the same crops and masks. Flip averaging is measured against pixel masks, as in
benchmarks/fidelity.py.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import fidelity, quantise
from benchmarks.read import machine
from extract.images.image_list import ImageList
from extract.images.listing import list_images
from extract.job.run import run_job
from extract.settings import JobOptions, TeacherSpec
from extract.teacher.timm_teacher import TimmTeacher
from recipes.context_digits.generate import generate
from tokenmix_loader import MapStore, evidence
from tokenmix_loader.scoring.evidence import normalise

TRAINED: dict[str, Any] = {"name": "test_resnet", "crop_mode": "squash", **quantise.SPEC}
RANDOM: dict[str, Any] = {"num_classes": 10, "random_weights": 0, "crop_mode": "squash"}
TEACHERS: dict[str, tuple[dict[str, Any], int]] = {  # options, share of the images in per cent
    "trained": (TRAINED, 100),
    "resnet101, random weights": ({"name": "resnet101", "input_size": (224, 224), **RANDOM}, 20),
    "convnext_atto, random weights": ({"name": "convnext_atto", "input_size": (224, 224), **RANDOM}, 20),
}
VARIANTS = {"bf16": ("bf16", "float32"), "fp16": ("fp16", "float32"), "stored float16": ("none", "float16")}
EVIDENCE = ("logit", "contrast")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--pairs", type=int, default=2000, help="for flip averaging")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "precision.json")
    given = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        generate(root, given.images, seed=0, split="test")
        result: dict[str, Any] = {"images": given.images, "pairs": given.pairs, "teachers": {}}
        for name, (options, percent) in TEACHERS.items():
            images = first(list_images(root / "images"), given.images * percent // 100)
            spec = {**options, "device": given.device}
            result["teachers"][name] = half_precision(images, spec, root / name)
            print(name, json.dumps(result["teachers"][name], indent=1), flush=True)
        result["flip_average"] = flip_average(root, {**TRAINED, "device": given.device}, given.pairs)
    print("flip averaging", json.dumps(result["flip_average"], indent=1))
    print(f"{time.monotonic() - started:.0f} s")
    given.out.write_text(json.dumps(result | {"machine": machine()}, indent=1) + "\n", encoding="utf-8")


def first(images: ImageList, count: int) -> ImageList:
    """`count` images evenly from the list, so that all classes have some."""
    rows = np.linspace(0, len(images) - 1, count).astype(int)
    return ImageList(images.root, [images.keys[row] for row in rows], images.labels[rows], images.class_names)


def extract(images: ImageList, spec: dict[str, Any], store: Path, dtype: str = "float32") -> MapStore:
    """The store of these maps."""
    run_job(
        images, store, TimmTeacher(TeacherSpec(**spec)), JobOptions(dtype=dtype, shard_rows=200, decoding_processes=1)
    )
    return MapStore(store)


def half_precision(images: ImageList, spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Errors of every variant and evidence."""
    exact = extract(images, spec, folder / "exact")
    drawn = quantise.draw(exact, seed=0)
    result: dict[str, Any] = {"route": exact.header.teacher["route"]}
    for variant, (amp, dtype) in VARIANTS.items():
        store = extract(images, {**spec, "amp": amp}, folder / variant, dtype)
        result[variant] = {}
        for kind in EVIDENCE:
            scores, true_scores = (quantise.score(each, kind, *drawn)[0] for each in (store, exact))
            maps, true_maps = (normalise(evidence(each.read(range(len(each))), kind)) for each in (store, exact))
            moved = (maps - true_maps).abs().sum((1, 2)) / 2
            result[variant][kind] = {"map": figures(moved), "score": figures((scores - true_scores).abs())}
    return result


def figures(errors: torch.Tensor) -> dict[str, float]:
    """Mean and largest, to three digits."""
    return {"mean": float(f"{float(errors.mean()):.3g}"), "max": float(f"{float(errors.max()):.3g}")}


def flip_average(root: Path, spec: dict[str, Any], pairs: int) -> dict[str, Any]:
    """Errors of scores against the pixel masks, in shares of the area score's, without and with."""
    images, result = list_images(root / "images"), {}
    for flipped in (False, True):
        store = root / f"flip-{flipped}"
        extract(images, {**spec, "flip_average": flipped}, store, "float16")
        views = fidelity.run(root / "images", store, pairs)["views"]
        result["with" if flipped else "without"] = {
            view: {kind: found["targets"][f"TokenMix, {kind}"]["ratio_to_area"] for kind in EVIDENCE}
            for view, found in views.items()
        }
    return result


if __name__ == "__main__":
    main()
