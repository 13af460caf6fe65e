"""How exact the geometry is: scores of an ideal teacher, and landmarks, under timm's own training transform.

    python -m benchmarks.geometry            # 2,200 pairs, 3 minutes; writes benchmarks/results/geometry.json

The ideal teacher knows every pixel and says it on an 18 x 18 grid over the whole image; so what is left of a score's
error is the geometry and the grid. The truth is the share of the digit's visible stroke in the visible tokens, read
off the stroke's mask after the untraced transform, with the same draws; operations that change colours leave the
mask as it is. "Published" is how the maps were used by the code that the paper's lineage published: a box with rows
and columns swapped, cut out by RoIAlign from a map of the centre square, turned on the token grid to the nearest cell
about a point half a cell off.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from timm.data import auto_augment, create_transform
from torch import Tensor
from torchvision.ops import roi_align

from benchmarks.read import machine
from recipes.context_digits.scene import render
from tokenmix_loader import align, sample_masks, trace
from tokenmix_loader.scoring.evidence import normalise
from tokenmix_loader.scoring.geometry import refine
from tokenmix_loader.scoring.targets import mix_scores

INPUT_PX, TOKEN_PX, SIDE = 224, 16, 18
GRID = (14, 14)
MOVES = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
WHOLE = torch.tensor([0.0, 0, 1, 1])
# "2 moves" is harsher than any training: two operations, both of which move the image.
AUGMENTS = {"crop and flip": None, "RandAugment": "rand-m9-mstd0.5-inc1", "2 moves": "rand-m9-mstd0.5-inc1-p1.0"}


class Sample(NamedTuple):
    """One transformed image: the ideal maps [18, 18] of whole image and centre square, and what the trace says.

    `stroke` [14, 14] is the truth; `crop` float64 [2, 3] is the affine before RandAugment; `square` [4] the centre
    square in image space.
    """

    whole: Tensor
    centre: Tensor
    square: Tensor
    affine: Tensor
    bounds: Tensor
    crop: Tensor
    stroke: Tensor


def run(pairs: int, landmarks: int, seed: int = 0) -> dict[str, Any]:
    """Errors of scores and landmarks for every kind of augmentation."""
    results = {}
    for name, augment in AUGMENTS.items():
        transforms = make_transforms(augment, only_moves=name == "2 moves")
        samples = Sample(*(torch.stack(part) for part in zip(*make_samples(transforms, pairs, seed), strict=True)))
        results[name] = {
            **score_errors(samples, np.random.default_rng(seed)),
            "landmarks_px": landmark_errors(transforms.colourless, landmarks, seed),
        }
    return {"pairs": pairs, "seed": seed, "grid": SIDE, "augmentations": results, "machine": machine()}


class Transforms(NamedTuple):
    """timm's training transform, and the same without what changes colours: equal draws, equal geometry."""

    full: Any
    colourless: Any


def make_transforms(augment: str | None, *, only_moves: bool) -> Transforms:
    """DeiT's settings of `create_transform`; black instead of its grey wherever an operation fills up."""
    settings = {"is_training": True, "auto_augment": augment, "interpolation": "bicubic", "use_prefetcher": True}
    full, colourless = (create_transform(INPUT_PX, mean=(0, 0, 0), color_jitter=None, **settings) for _ in range(2))
    for transform in (full, colourless) if augment else ():
        policy = transform.transforms[2]
        if only_moves:
            policy.ops = [op for op in policy.ops if op.name in MOVES]
    for op in colourless.transforms[2].ops if augment else ():
        if op.name not in MOVES:
            op.aug_fn = auto_augment.posterize  # of a known kind, and told below to keep all bits
            op.level_fn = keep_all_bits(op.level_fn)
    return Transforms(full, colourless)


def keep_all_bits(level_fn: Any) -> Any:
    """The level's draws, and then 8 bits: an operation that changes nothing."""

    def level(magnitude: float, hparams: Any) -> tuple[int]:
        if level_fn is not None:
            level_fn(magnitude, hparams)
        return (8,)

    return level


def make_samples(transforms: Transforms, count: int, seed: int) -> Iterator[Sample]:
    """Scenes of random size and aspect, each through the traced transform and its mask through the untraced one."""
    traced = trace(transforms.full)
    first_steps = trace(type(transforms.full)(transforms.full.transforms[:2]))
    for index in range(count):
        scene = render(seed, "test", index)
        seed_all(seed, index)
        _, affine, bounds = traced.view(scene.image)
        seed_all(seed, index)
        _, crop = first_steps(scene.image)
        seed_all(seed, index)
        shown = transforms.colourless(scene.mask.convert("RGB"))[0].float()
        stroke = shown.reshape(GRID[0], TOKEN_PX, GRID[1], TOKEN_PX).mean((1, 3))
        square = centre_square(*scene.mask.size)
        left, top, right, bottom = (round(edge * side) for edge, side in zip(square, scene.mask.size * 2, strict=True))
        centre = scene.mask.crop((left, top, right, bottom))
        places = (torch.tensor(square), torch.from_numpy(affine), torch.from_numpy(bounds), torch.from_numpy(crop))
        yield Sample(ideal(scene.mask), ideal(centre), *places, stroke)


def seed_all(seed: int, index: int) -> None:
    """All generators that timm and torchvision draw from."""
    random.seed(seed * 1_000_003 + index)
    np.random.seed([seed, index])  # noqa: NPY002
    torch.manual_seed(seed * 1_000_003 + index)


def ideal(mask: Image.Image) -> Tensor:
    """The mask's mean over each cell."""
    return torch.from_numpy(np.asarray(mask.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32).copy())


def centre_square(width: int, height: int) -> tuple[float, float, float, float]:
    """(x0, y0, x1, y1) in the unit square."""
    x, y = (1 - min(width, height) / width) / 2, (1 - min(width, height) / height) / 2
    return x, y, 1 - x, 1 - y


def score_errors(samples: Sample, rng: np.random.Generator) -> dict[str, Any]:
    """Mean |error| of one image's score, every image mixed with the next one; area's, and the others' ratio to it."""
    count = len(samples.stroke)
    masks = sample_masks(rng, count, GRID)
    partner = torch.arange(count).roll(-1)
    present = samples.stroke.sum((1, 2)) > 0
    truth = torch.cat(mix_scores(samples.stroke, masks, partner, min_evidence=0))
    scored = torch.cat((present, present[partner]))
    errors = {}
    for name, tokens in token_maps(samples).items():
        supervision = "area" if name == "area" else "tokenmix"
        # No least evidence: an ideal teacher shows no background that it would have to keep out.
        scores = torch.cat(mix_scores(tokens, masks, partner, supervision=supervision, min_evidence=0))
        errors[name] = (scores - truth)[scored].abs()
    area = errors["area"]
    rows = {
        name: {
            "error": round(float(error.mean()), 5),
            "ratio_to_area": round(float(error.mean() / area.mean()), 4),
            "worse_than_area": round(float((error > area + 1e-6).float().mean()), 4),
        }
        for name, error in errors.items()
    }
    return {"scores": int(scored.sum()), "left_out": int((~scored).sum()), "targets": rows}


def token_maps(samples: Sample) -> dict[str, Tensor]:
    """What each scheme makes of the ideal map: [B, 14, 14]."""
    views = WHOLE.expand(len(samples.whole), 4)
    whole, centre = normalise(samples.whole), normalise(samples.centre)
    return {
        "area": samples.stroke,
        "published": published(samples, swap=True),
        "published, unswapped": published(samples, swap=False),
        "exact, centre square": align(refine(centre), samples.square, samples.affine, GRID, bounds=samples.bounds),
        "exact, without bounds": align(refine(whole), views, samples.affine, GRID),
        "exact, flat cells": align(whole, views, samples.affine, GRID, bounds=samples.bounds),
        "exact": align(refine(whole), views, samples.affine, GRID, bounds=samples.bounds),
    }


def published(samples: Sample, *, swap: bool) -> Tensor:
    """The scheme that the module's docstring describes, on maps of the centre square."""
    crop = samples.crop.float()
    size, near = crop[:, [0, 1], [0, 1]], crop[:, :, 2]
    flipped = size[:, 0] < 0
    near = near + size.clamp(max=0)
    boxes = SIDE * torch.cat((near, near + size.abs()), dim=1)
    boxes = boxes[:, [1, 0, 3, 2]] if swap else boxes
    cut = roi_align(samples.centre[:, None], list(boxes[:, None].unbind()), GRID, aligned=True)[:, 0]
    cut = torch.where(flipped[:, None, None], cut.flip(2), cut)
    return normalise(turn_cells(cut, moved_since(samples)).clamp(min=0))


def moved_since(samples: Sample) -> Tensor:
    """What RandAugment did after the crop, float64 [B, 2, 3] on the crop's unit square."""
    last = torch.tensor([0.0, 0, 1]).double().expand(len(samples.crop), 1, 3)
    whole: Tensor = torch.linalg.solve(*(torch.cat((part, last), 1) for part in (samples.crop, samples.affine)))
    return whole[:, :2]


def turn_cells(cells: Tensor, affines: Tensor) -> Tensor:
    """Each cell takes the value of the nearest one; coordinates count from a cell's corner, not from its middle."""
    gh, gw = GRID
    v, u = torch.meshgrid(torch.arange(gh) / gh, torch.arange(gw) / gw, indexing="ij")
    x, y = (affines @ torch.stack((u, v, torch.ones(GRID))).double().flatten(1)).unbind(1)
    column, row = (x * gw).round().long(), (y * gh).round().long()
    held = (column >= 0) & (column < gw) & (row >= 0) & (row < gh)
    return cells.flatten(1).gather(1, (row * gw + column).where(held, 0)).where(held, 0).view_as(cells)


def landmark_errors(transform: Any, count: int, seed: int) -> dict[str, float]:
    """Distance between where the affine puts a soft spot and where its pixels are, in px of the network's input."""
    traced, errors = trace(transform), []
    rng = np.random.default_rng(seed)
    for index in range(count):
        size = render(seed, "test", index).mask.size
        seed_all(seed, index)
        white, affine = traced(Image.new("RGB", size, "white"))
        u, v = rng.uniform(0.3, 0.7, 2)
        scale = np.sqrt(abs(np.linalg.det(affine[:, :2] * np.array(size)[:, None]))) / INPUT_PX  # px per px
        radius = max(2.0, 5 * scale)
        left, right, top, bottom = (int(INPUT_PX * at + sign * 4 * radius / scale) for at in (u, v) for sign in (-1, 1))
        if white[0, max(top, 0) : bottom, max(left, 0) : right].min() < 250:
            continue  # some border cuts the spot
        seed_all(seed, index)
        pixels = transform(paint(size, np.array(size) * (affine @ (u, v, 1)), radius))[0].double()
        at = torch.arange(INPUT_PX) + 0.5
        shown = torch.stack(((pixels.sum(0) * at).sum(), (pixels.sum(1) * at).sum())) / pixels.sum()
        errors.append(float(np.hypot(*(shown.numpy() - INPUT_PX * np.array((u, v))))))
    return {
        "count": len(errors),
        "mean": round(float(np.mean(errors)), 4),
        "p99": round(float(np.quantile(errors, 0.99)), 4),
    }


def paint(size: tuple[int, int], spot: np.ndarray[Any, Any], radius: float) -> Image.Image:
    """A Gaussian spot on black; width, height and place in px."""
    row, column = np.mgrid[: size[1], : size[0]] + 0.5
    grey = np.exp(-((column - spot[0]) ** 2 + (row - spot[1]) ** 2) / (2 * radius**2))
    return Image.fromarray(np.rint(255 * grey).astype(np.uint8)).convert("RGB")


def format_table(result: dict[str, Any]) -> str:
    """The figures of `run` as text."""
    lines = []
    for name, found in result["augmentations"].items():
        marks = found["landmarks_px"]
        lines.append(f"{name}: {found['scores']} scores, {found['left_out']} left out (no digit in the view)")
        lines.append(f"  landmarks: mean {marks['mean']:.3f} px, p99 {marks['p99']:.3f} px of {marks['count']}")
        lines += [
            f"  {target:24s}{row['error']:10.4f}{row['ratio_to_area']:9.3f} x area{row['worse_than_area']:10.1%} worse"
            for target, row in found["targets"].items()
        ]
    return "\n".join(lines)


def main() -> None:
    """Run, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2200)
    parser.add_argument("--landmarks", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "geometry.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = run(options.pairs, options.landmarks, options.seed)
    print(format_table(result))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
