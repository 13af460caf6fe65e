"""What maps are worth as evidence, with real ImageNet teachers on real objects whose pixel masks are known.

    python -m benchmarks.evidence FOLDER      # 720 images, two teachers; writes benchmarks/results/evidence.json

Objects of recipes/cut_outs on crops of all eleven photographs (both splits); maps of the true label; DeiT's random
crop and flip, block masks, half of the tokens kept. Errors of one image's score are given as a share of the area
target's, with 95 % intervals over objects (bootstrap). `mass inside`: the share of the evidence that lies on the
object, over the whole image. Needs Debian's tuxpaint-stamps-default, see recipes/cut_outs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import extract
from benchmarks.fidelity import KEPT, TRANSFORMS, cells, pixel_mask, score_errors, summary, views_of
from benchmarks.read import machine
from extract import JobOptions, TeacherSpec
from recipes.cut_outs.generate import generate
from recipes.cut_outs.scene import Look, background_of, objects
from recipes.cut_outs.stamps import stamp_folder
from store import MapStore
from tokenmix_loader import align, evidence
from tokenmix_loader.scoring.evidence import normalise
from tokenmix_loader.scoring.geometry import refine

TEACHERS = ("efficientnet_lite0", "efficientnet_lite2")
SPLITS = {"test": 0, "train": 1}  # with their seeds: other backgrounds in each
KINDS: dict[str, dict[str, Any]] = {
    "label": {"kind": "label"},
    "cam": {"kind": "cam"},
    "cam, scales 1,2": {"kind": "cam", "scales": (1.0, 2.0)},
    "cam, rivals 0": {"kind": "cam", "rivals": 0},
    "cam, fused only": {"kind": "cam", "spread": False, "rivals": 0},
}
USUAL_KINDS = ("label", "cam", "cam, scales 1,2")
IDEAL_GRIDS = (28, 18, 12)
# The photographs that show no thing of their own which a classifier could take for an object.
BARE = ("brick.png", "clock_motion.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "retina.jpg")
CROPS_PER_IMAGE, RESAMPLINGS = 2, 1000
GAUSS = 0.2  # standard deviation of the centred Gaussian, in sides of the image
WHOLE = torch.tensor([[0.0, 0.0, 1.0, 1.0]])


class Images(NamedTuple):
    """Of N images: pixel masks, number of the object, name of the photograph behind it."""

    masks: list[Any]
    object: npt.NDArray[np.int64]
    background: npt.NDArray[np.str_]


def run(
    folder: Path,
    teachers: Sequence[str],
    count: int,
    seeds: int,
    kinds: Sequence[str] = USUAL_KINDS,
    object_share: tuple[float, float] = Look.object_share,
) -> dict[str, Any]:
    """The whole table; what is in the folder already is used again."""
    look = Look(stamp_folder(), object_share=object_share)
    for split, seed in SPLITS.items():
        generate(folder / split, count, seed=seed, split=split, look=look, processes=2)
    result: dict[str, Any] = {"images": 2 * count, "seeds": seeds, "kept": KEPT, "object_share": object_share}
    result["teachers"] = {}
    for teacher in teachers:
        seconds, stores = {}, {}
        for kind, asked in ((kind, KINDS[kind]) for kind in kinds):
            stores[kind] = [folder / split / f"{teacher}-{kind.replace(' ', '')}" for split in SPLITS]
            took = [extract_s(folder / split, store, TeacherSpec(teacher, device="cpu", **asked))
                    for split, store in zip(SPLITS, stores[kind], strict=True)]  # fmt: skip
            if all(took):  # a store that was there has no time
                seconds[kind] = sum(took) / (2 * count)
        result["teachers"][teacher] = measure(folder, look, stores, seeds) | {"seconds_per_image": seconds}
    return result | {"machine": machine()}


def extract_s(root: Path, store: Path, spec: TeacherSpec) -> float:
    """Seconds of the job; 0 where the store was there."""
    started = time.monotonic()
    done = extract.run(root / "images", store, spec, JobOptions(decoding_processes=1)).progress.done
    return time.monotonic() - started if done else 0.0


def measure(folder: Path, look: Look, stores: dict[str, list[Path]], seeds: int) -> dict[str, Any]:
    """Rows of the table by target, and those of the fused maps by photograph."""
    images, evidences, top1 = load(folder, look, stores)
    errors, image = errors_of(evidences, images.masks, seeds)
    table = {name: row(name, errors, evidences, images, image) for name in errors}
    return {"top1": top1, "scores": len(image), "targets": table, "by_background": by_background(errors, images, image)}


def errors_of(
    evidences: dict[str, tuple[Tensor, Tensor]], masks: Sequence[Any], seeds: int
) -> tuple[dict[str, Tensor], npt.NDArray[np.int64]]:
    """Absolute errors of scores by target, `area` among them, and the image that each is of.

    `evidences`: of each target maps [N, h, w] and views [N, 4] of the N images, whose pixel masks are `masks`.
    """
    errors: dict[str, list[Tensor]] = {}
    of_image = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        rows = np.concatenate([rng.permutation(len(masks)) for _ in range(CROPS_PER_IMAGE)])
        chosen = {name: (maps[rows], views[rows]) for name, (maps, views) in evidences.items()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            views = views_of(TRANSFORMS["random crop"], [masks[row] for row in rows.tolist()])
        scored, found = score_errors(views, chosen, rng)
        of_image.append(np.concatenate([rows, np.roll(rows, -1)])[scored.numpy()])
        for name, error in found.items():
            errors.setdefault(name, []).append(error)
    return {name: torch.cat(parts) for name, parts in errors.items()}, np.concatenate(of_image)


def load(
    folder: Path, look: Look, stores: dict[str, list[Path]]
) -> tuple[Images, dict[str, tuple[Tensor, Tensor]], float]:
    """The images of both splits, what each target says of them (maps and their views), and the teacher's top-1."""
    opened = {kind: [MapStore(path) for path in paths] for kind, paths in stores.items()}
    masks, numbers, backgrounds = [], [], []
    for (split, seed), maps in zip(SPLITS.items(), opened["label"], strict=True):
        for key in maps.keys:
            index = int(Path(key).stem.rpartition("-")[2])
            masks.append(pixel_mask(folder / split / "images", key))
            numbers.append(index % len(objects(look.objects)))
            backgrounds.append(background_of(look, seed, split, index))
    whole = WHOLE.repeat(len(masks), 1)
    across = torch.exp(-(((torch.arange(28) + 0.5) / 28 - 0.5) ** 2) / (2 * GAUSS**2))
    evidences = {"centred Gaussian": ((across[:, None] * across).expand(len(masks), 28, 28), whole)}
    for kind, parts in opened.items():
        raw = [torch.from_numpy(maps.read(range(len(maps)))).float() for maps in parts]
        views = torch.cat([torch.from_numpy(maps.views(range(len(maps)))) for maps in parts])
        for form in ("logit", "contrast"):
            evidences[f"{kind}, {form}"] = torch.cat([evidence(part, form) for part in raw]), views
    evidences |= {
        f"ideal {side} x {side}": (torch.stack([cells(mask, side) for mask in masks]), whole) for side in IDEAL_GRIDS
    }
    right = [maps.predictions == maps.header.teacher_class[maps.labels] for maps in opened["label"]]
    images = Images(masks, np.array(numbers), np.array(backgrounds))
    return images, evidences, round(float(np.concatenate(right).mean()), 4)


def row(
    name: str,
    errors: dict[str, Tensor],
    evidences: dict[str, tuple[Tensor, Tensor]],
    images: Images,
    image: npt.NDArray[np.int64],
) -> dict[str, Any]:
    """One line of the table."""
    without = torch.from_numpy(bare(images)[image])
    on_bare = {target: error[without] for target, error in errors.items() if target in (name, "area")}
    found: dict[str, Any] = summary(errors[name], errors["area"]) | {
        "interval": interval(errors, images.object[image], name),
        "without_objects": {
            "ratio_to_area": round(float(on_bare[name].sum() / on_bare["area"].sum()), 4),
            "interval": interval(on_bare, images.object[image][without.numpy()], name),
        },
    }
    if name in evidences:
        found["mass_inside"] = mass_inside(*evidences[name], images.masks)
    return found


def bare(images: Images) -> npt.NDArray[np.bool_]:
    """Which of the images have a photograph without objects behind theirs, [N]."""
    return np.isin(images.background, BARE)


def interval(
    errors: dict[str, Tensor], group: npt.NDArray[np.int64], name: str, other: str | None = None
) -> tuple[float, float]:
    """95 % of the ratio of a target's mean error to the area's, less that of `other`, when groups are drawn anew.

    `group`: of each score, a number from 0.
    """
    sums = {target: np.bincount(group, error.numpy()) for target, error in errors.items()}
    count = len(sums["area"])
    drawn = np.random.default_rng(0).integers(count, size=(RESAMPLINGS, count))
    again = {target: total[drawn].sum(1) / sums["area"][drawn].sum(1) for target, total in sums.items()}
    low, high = np.percentile(again[name] - (again[other] if other else 0), [2.5, 97.5])
    return round(float(low), 3), round(float(high), 3)


def mass_inside(maps: Tensor, views: Tensor, masks: list[Any], side: int = 56) -> float:
    """Mean share of the evidence on the object (energy-based pointing game), over the whole image."""
    shares = list(_shares(maps, views, masks, side))
    return round(float(np.mean(shares)), 4)


def _shares(maps: Tensor, views: Tensor, masks: list[Any], side: int) -> Iterator[float]:
    identity = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]], dtype=torch.float64)[None]
    for i, mask in enumerate(masks):
        tokens = align(refine(normalise(maps[i : i + 1])), views[i : i + 1], identity, (side, side))[0]
        if tokens.sum() > 0:
            yield float((tokens * cells(mask, side) / 255).sum() / tokens.sum())


def by_background(errors: dict[str, Tensor], images: Images, image: npt.NDArray[np.int64]) -> dict[str, Any]:
    """What the photograph behind the object does: a cat is evidence for an animal, gravel for nothing."""
    background, area = images.background[image], errors["area"].numpy()
    names = [name for name in errors if name.endswith("contrast")]
    return {
        photograph: {
            name: round(
                float(errors[name].numpy()[background == photograph].mean() / area[background == photograph].mean()), 3
            )
            for name in names
        }
        for photograph in sorted(set(images.background.tolist()))
    }


def format_table(result: dict[str, Any]) -> str:
    """The figures of `run` as text."""
    lines = []
    for teacher, figures in result["teachers"].items():
        lines.append(
            f"{teacher}: top-1 {figures['top1']:.1%}, {figures['scores']} scores; seconds per image "
            f"{figures['seconds_per_image']}"
        )
        for name, found in figures["targets"].items():
            low, high = found["interval"]
            on_bare, (bare_low, bare_high) = found["without_objects"].values()
            mass = f"{found['mass_inside']:.3f}" if "mass_inside" in found else "-"
            lines.append(
                f"  {name:26}{found['ratio_to_area']:7.3f} [{low:.3f}, {high:.3f}]  photographs without objects "
                f"{on_bare:.3f} [{bare_low:.3f}, {bare_high:.3f}]  worse than area {found['worse_than_area']:6.1%}  "
                f"mass inside {mass}"
            )
        lines += [f"    {name:24}{found}" for name, found in figures["by_background"].items()]
    return "\n".join(lines)


def main() -> None:
    """Run, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--teachers", nargs="+", default=TEACHERS)
    parser.add_argument("--count", type=int, default=360, help="images of each split")
    parser.add_argument("--seeds", type=int, default=5, help="of crops and masks")
    parser.add_argument("--kinds", nargs="+", default=USUAL_KINDS, choices=KINDS, help="label is needed")
    parser.add_argument("--object-share", nargs=2, type=float, default=Look.object_share, help="of the image's side")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "evidence.json")
    options = parser.parse_args()
    share = tuple(options.object_share)
    result = run(options.folder, options.teachers, options.count, options.seeds, options.kinds, share)
    print(format_table(result))
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
