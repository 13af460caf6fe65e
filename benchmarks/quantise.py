"""What dtypes float16 and uint8 cost in TokenMix targets, against float32, on real maps of the demo's teacher.

    python -m benchmarks.quantise            # half a minute; writes benchmarks/results/quantise.json

The same images are extracted once per dtype, and the same crops and masks are scored from each store. Errors are
absolute: of one image's score, and of the entries of the dense target of a thousand classes, as the paper's has.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms as tv

from benchmarks.read import machine
from extract.images.listing import list_images
from extract.job.run import run_job
from extract.settings import JobOptions, TeacherSpec
from extract.teacher.timm_teacher import TimmTeacher
from recipes.context_digits.demo import TEACHER
from recipes.context_digits.generate import generate
from tokenmix_loader import MapStore, align, evidence, mix_targets, sample_masks, trace
from tokenmix_loader.scoring.evidence import normalise
from tokenmix_loader.scoring.geometry import refine
from tokenmix_loader.scoring.targets import mix_scores

SPEC = dict(checkpoint=TEACHER, num_classes=10, model_args={"output_stride": 8}, input_size=(96, 96), crop_pct=1.0)
DTYPES = ("float32", "float16", "uint8")
EVIDENCE = {"label": ("logit", "contrast"), "cam": ("logit",)}
GRID = (14, 14)
CROP = tv.Compose([tv.RandomResizedCrop(224, scale=(0.08, 1.0)), tv.RandomHorizontalFlip()])  # DeiT's


def main() -> None:
    """Generate, extract, score, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--crops", type=int, default=10, help="per image")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "quantise.json")
    options = parser.parse_args()
    result: dict[str, Any] = {"images": options.images, "crops": options.crops}
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder), options.images, seed=0, split="test")
        result |= {kind: run(Path(folder), kind, options.crops) for kind in EVIDENCE}
    print(json.dumps(result, indent=1))
    options.out.write_text(json.dumps(result | {"machine": machine()}, indent=1) + "\n", encoding="utf-8")


def run(folder: Path, kind: str, crops: int) -> dict[str, Any]:
    """Errors of every evidence of one kind, by dtype, and the payload's bytes per image."""
    stores = {dtype: extract(folder, kind, dtype) for dtype in DTYPES}
    figures: dict[str, Any] = {name: {dtype: [] for dtype in DTYPES[1:]} for name in EVIDENCE[kind]}
    for seed in range(crops):
        drawn = draw(stores["float32"], seed)
        for name, errors in figures.items():
            exact = score(stores["float32"], name, *drawn)
            for dtype in DTYPES[1:]:
                found = score(stores[dtype], name, *drawn)
                errors[dtype].append([(a - b).abs() for a, b in zip(found, exact, strict=True)])
    nbytes = {dtype: payload_nbytes(store) for dtype, store in stores.items()}
    return {"payload_bytes": nbytes} | {
        name: {dtype: summary(found) for dtype, found in errors.items()} for name, errors in figures.items()
    }


def extract(folder: Path, kind: str, dtype: str) -> MapStore:
    """The store of this kind and dtype."""
    path = folder / f"{kind}-{dtype}"
    teacher = TimmTeacher(TeacherSpec("test_resnet", crop_mode="squash", kind=kind, **SPEC))  # type: ignore[arg-type]
    run_job(
        list_images(folder / "images"), path, teacher, JobOptions(dtype=dtype, shard_rows=200, decoding_processes=0)
    )
    return MapStore(path)


def draw(store: MapStore, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """One crop per image, as affines float64 [B, 2, 3], masks bool [B, gh, gw] and partners [B]."""
    crop: Callable[..., Any] = trace(CROP)
    torch.manual_seed(seed)  # torchvision's transforms take no generator
    affines = [crop(Image.new("L", tuple(size)))[1] for size in store.sizes.tolist()]
    rng = np.random.default_rng(seed)
    kept = sample_masks(rng, len(store), GRID, "block", kept=0.5)
    return torch.from_numpy(np.stack(affines)), kept, torch.from_numpy(rng.permutation(len(store)))


def score(store: MapStore, name: str, affines: Tensor, kept: Tensor, partner: Tensor) -> tuple[Tensor, Tensor]:
    """Scores [2 B] and dense targets [B, K]."""
    rows = np.arange(len(store))
    views, labels = torch.from_numpy(store.views(rows)), torch.from_numpy(store.labels.astype(np.int64))
    tokens = align(refine(normalise(evidence(store.read(rows), name))), views, affines, GRID)
    dense = mix_targets(tokens, kept, labels, partner, num_classes=1000)
    return torch.cat(mix_scores(tokens, kept, partner)), dense


def payload_nbytes(store: MapStore) -> int:
    """Bytes of one map in the file, at the paper's grid of 18 x 18 tokens."""
    tokens = int(np.prod(store.grid))
    return sum(f.dtype.itemsize * int(np.prod(f.shape)) * (324 if f.shape == store.grid else tokens) // tokens
               for f in store.header.payload)  # fmt: skip


def summary(errors: list[list[Tensor]]) -> dict[str, float]:
    """Mean and largest error of scores, mean error of targets."""
    scores, targets = (torch.cat([one[i].flatten() for one in errors]) for i in (0, 1))
    figures = {"score_mean": scores.mean(), "score_max": scores.max(), "target_mean": targets.mean()}
    return {name: float(f"{float(figure):.3g}") for name, figure in figures.items()}


if __name__ == "__main__":
    main()
