"""How far scores are from the truth: area, TokenMix with each evidence, and ideal maps, on context digits.

    python -m benchmarks.fidelity ROOT/images STORE      # 1,000 pairs; writes benchmarks/results/fidelity.json

The truth of a score is the share of the digit's visible stroke in the visible tokens. It comes from the image's
pixel mask, which goes through the very transform (Pillow's crop, flip and resize) whose affine the scores use;
neither that affine nor `align` has a part in it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms as tv

from benchmarks.read import machine
from tokenmix_loader import MapStore, align, evidence, sample_masks, trace
from tokenmix_loader.scoring.evidence import normalise
from tokenmix_loader.scoring.geometry import refine
from tokenmix_loader.scoring.targets import mix_scores

INPUT_PX = 224
GRID = (14, 14)
KEPT = 0.5
EVIDENCE = ("logit", "contrast")
IDEAL_GRIDS = (18, 12)
TRANSFORMS: dict[str, Callable[[Any], Any]] = {
    "random crop": tv.Compose(
        [tv.RandomResizedCrop(INPUT_PX, scale=(0.08, 1.0)), tv.RandomHorizontalFlip()]  # DeiT's
    ),
    "whole image": tv.Resize((INPUT_PX, INPUT_PX)),
}


class Views(NamedTuple):
    """One transformed view of B images: affines float64 [B, 2, 3], the stroke in every token float32 [B, gh, gw]."""

    affines: Tensor
    stroke: Tensor


def run(images: Path, store: Path, pairs: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Absolute errors of one image's score over `pairs` mixed pairs, in every kind of view.

    `images` is the class folder of context digits with `masks` beside it, `store` its maps. Each pair gives two
    scores. Raises FileNotFoundError for a missing mask.
    """
    maps = MapStore(store)
    rng = np.random.default_rng(seed)
    rows = np.concatenate([rng.permutation(len(maps)) for _ in range(-(-pairs // len(maps)))])[:pairs]
    pixel_masks = [pixel_mask(images, maps.keys[row]) for row in rows.tolist()]
    evidences = _teacher_evidence(maps, rows) | _ideal_evidence(pixel_masks)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # torchvision's transforms take no generator
        errors = {
            name: _errors(views_of(transform, pixel_masks), evidences, rng) for name, transform in TRANSFORMS.items()
        }
    return {
        "pairs": pairs,
        "seed": seed,
        "mask": {"kind": "block", "kept": KEPT, "grid": list(GRID)},
        "views": errors,
        "store": _describe(maps),
        "machine": machine(),
    }


def format_table(result: dict[str, Any]) -> str:
    """The figures of `run` as text."""
    lines = []
    for view, figures in result["views"].items():
        lines.append(f"{view}: {figures['scores']} scores, {figures['left_out']} left out (no digit in the view)")
        lines.append(f"  {'target':24s}{'mean |error|':>13s}{'x area':>9s}{'worse than area':>18s}")
        lines += [
            f"  {name:24s}{row['error']:13.4f}{row['ratio_to_area']:9.3f}{row['worse_than_area']:18.1%}"
            for name, row in figures["targets"].items()
        ]
    return "\n".join(lines)


def pixel_mask(images: Path, key: str) -> Image.Image:
    """The mask beside an image; FileNotFoundError where there is none."""
    path = (images.parent / "masks" / key).with_suffix(".png")
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected the pixel mask of {key}, found none; give the `images` folder that "
            "recipes.context_digits.generate or recipes.cut_outs.generate wrote"
        )
    mask = Image.open(path)
    mask.load()  # and close the file
    return mask


def _teacher_evidence(maps: MapStore, rows: np.ndarray[Any, np.dtype[np.int64]]) -> dict[str, tuple[Tensor, Tensor]]:
    views = torch.from_numpy(maps.views(rows))
    return {f"TokenMix, {kind}": (evidence(maps.read(rows), kind), views) for kind in EVIDENCE}


def _ideal_evidence(masks: Sequence[Image.Image]) -> dict[str, tuple[Tensor, Tensor]]:
    """What a perfect teacher of a given grid would say: the mask's mean over each cell of the whole image."""
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(len(masks), 1)
    return {
        f"ideal {side} x {side}": (torch.stack([cells(mask, side) for mask in masks]), whole) for side in IDEAL_GRIDS
    }


def cells(mask: Image.Image, side: int) -> Tensor:
    """The mask's mean over each of side x side cells."""
    return torch.from_numpy(np.asarray(mask.resize((side, side), Image.Resampling.BOX), np.float32).copy())


def views_of(transform: Callable[[Any], Any], masks: Sequence[Image.Image]) -> Views:
    """Every mask after the transform, whose chance is torch's."""
    traced = trace(transform)
    shown, affines = zip(*(traced(mask) for mask in masks), strict=True)
    pixels = np.stack([np.asarray(mask, np.float32) for mask in shown])
    gh, gw = GRID
    stroke = pixels.reshape(len(masks), gh, INPUT_PX // gh, gw, INPUT_PX // gw).mean((2, 4))
    return Views(torch.from_numpy(np.stack(affines)), torch.from_numpy(stroke))


def _errors(views: Views, evidences: dict[str, tuple[Tensor, Tensor]], rng: np.random.Generator) -> dict[str, Any]:
    scored, errors = score_errors(views, evidences, rng)
    return {
        "scores": int(scored.sum()),
        "left_out": int((~scored).sum()),
        "targets": {name: summary(error, errors["area"]) for name, error in errors.items()},
    }


def score_errors(
    views: Views, evidences: dict[str, tuple[Tensor, Tensor]], rng: np.random.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """Which of the 2 B scores there is a truth for, and their absolute errors by target.

    Every image is mixed with the next one, the last with the first: B scores of the images, then B of their partners.
    """
    count = len(views.stroke)
    kept = sample_masks(rng, count, GRID, "block", kept=KEPT)
    partner = torch.arange(count).roll(-1)
    present = views.stroke.sum((1, 2)) > 0
    scored = torch.cat([present, present[partner]])
    visible = torch.cat([kept, ~kept])
    stroke = torch.cat([views.stroke, views.stroke[partner]])[scored]
    truth = (stroke * visible[scored]).sum((1, 2)) / stroke.sum((1, 2))
    scores = {"area": mix_scores(views.stroke, kept, partner, supervision="area")}
    for name, (maps, places) in evidences.items():
        tokens = align(refine(normalise(maps)), places, views.affines, GRID)
        scores[name] = mix_scores(tokens, kept, partner)
    return scored, {name: (torch.cat(pair)[scored] - truth).abs() for name, pair in scores.items()}


def summary(error: Tensor, area: Tensor) -> dict[str, float]:
    """Mean error, its share of the area target's, and how often it is larger than that."""
    return {
        "error": round(float(error.mean()), 5),
        "ratio_to_area": round(float(error.mean() / area.mean()), 4),
        "worse_than_area": round(float((error > area + 1e-6).float().mean()), 4),
    }


def _describe(maps: MapStore) -> dict[str, Any]:
    header = maps.header
    return {
        "rows": len(maps),
        "kind": maps.kind,
        "grid": list(maps.grid),
        "teacher": dict(header.teacher),
        "preprocessing": dict(header.preprocessing),
        "teacher_top1": round(float((maps.predictions == maps.labels).mean()), 4),
    }


def main() -> None:
    """Run, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="ROOT/images of context digits")
    parser.add_argument("store", type=Path, help="maps of these images")
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "fidelity.json")
    options = parser.parse_args()
    result = run(options.images, options.store, options.pairs, options.seed)
    print(format_table(result))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
