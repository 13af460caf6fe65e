"""What each part of kind `cam` is worth: all that was tried, each as fused and spread over tokens that look alike.

    python -m benchmarks.evidence.variants FOLDER     # after benchmarks.evidence FOLDER; some half an hour

One teacher, images and errors as in benchmarks.evidence. Unless a line says otherwise: one pass at 224 px, stages 2, 4
and 6 (strides 8, 16, 32) by their geometric mean, spread by stages 1, 2 and 4, no rivals, evidence `contrast`. Writes
benchmarks/results/evidence_variants.json; needs some 8 GB of memory.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.evidence.passes import STAGES, TEACHER, USUAL, Passes, collect
from benchmarks.evidence.scores import SPLITS, bare, errors_of, interval, load
from benchmarks.read import machine
from extract.teacher.kinds.cam import contested, fuse, unit
from extract.teacher.kinds.spread import POWER, STEPS, likeness, spread, transitions
from recipes.cut_outs.scene import Look
from recipes.cut_outs.stamps import stamp_folder
from tokenmix_loader import evidence

Groups = dict[str, dict[str, Tensor]]  # evidence [N, h, w] by part and choice
Walk = Callable[[Tensor], Tensor]  # maps [N, h, w] -> spread
FUSED: Final = (2, 4, 6)
COMPARED: Final = (1, 2, 4)
AS_IT_COMES: Final = "as it comes"
THREE: Final = "rivals, product"
OTHER_RIVALS: Final = {"one rival": "one", "ten rivals": "ten", "all rivals": "all others"}
CHUNK: Final = 60  # images, whose transitions are 150 MB


def geometric(maps: Sequence[Tensor]) -> Tensor:
    """Of maps [N, h, w], scaled to 0..1."""
    return unit(fuse(maps))


def stages(passes: Passes, name: str, chosen: Sequence[int] = FUSED) -> list[Tensor]:
    """Maps [N, h, w] of stages, counted from 1."""
    return [passes[name][:, number - 1].float() for number in chosen]


def walk(
    features: Sequence[Tensor],
    power: float = POWER,
    steps: int = STEPS,
    near: Tensor | None = None,
    measure: Callable[[Tensor], Tensor] = likeness,
    keep: bool = False,
) -> Walk:
    """Steps between tokens of features [N, C, h, w]; `near` [tokens, tokens] multiplies their likeness.

    `keep`: for one that takes many maps of the same images.
    """

    def transition_of(rows: Tensor) -> Tensor:
        alike = torch.stack([measure(view[rows].float()) for view in features]).mean(0)
        found = transitions(alike, power)
        if near is not None:
            found = found * near
            found = found / found.sum(2, keepdim=True)
        return found

    kept: dict[int, Tensor] = {}  # by their first row, in half precision; 0.9 GB for 720 images

    def parts(maps: Tensor) -> Iterator[Tensor]:
        for rows in torch.split(torch.arange(len(maps)), CHUNK):
            first = int(rows[0])
            found = kept[first].float() if first in kept else transition_of(rows)
            if keep and first not in kept:
                kept[first] = found.half()
            yield spread(maps[rows], found, steps)

    return lambda maps: unit(torch.cat(list(parts(maps))))


def uncentred(features: Tensor) -> Tensor:
    """As `likeness`, of features as they are."""
    tokens = functional.normalize(features.flatten(2), dim=1)
    return tokens.mT @ tokens


def features(passes: Passes, chosen: Sequence[int] = COMPARED, scale: float = 1) -> list[Tensor]:
    """Of stages, counted from 1."""
    return [passes[f"features {number}, scale {scale:g}"] for number in chosen]


def fused_choices(passes: Passes) -> dict[str, dict[str, Tensor]]:
    """Fused maps [N, h, w], by part and choice, not spread yet."""
    usual = stages(passes, USUAL)
    activation = geometric(stages(passes, "logit, activation"))
    half = (torch.arange(usual[0].shape[1]) + 0.5) / usual[0].shape[1] - 0.5
    return {
        AS_IT_COMES: {"": geometric(usual)},
        "one stage": {f"{number}": stages(passes, USUAL, [number])[0] for number in range(1, len(STAGES) + 1)},
        "stages": {
            ", ".join(map(str, chosen)): geometric(stages(passes, USUAL, chosen))
            for chosen in ((1, 2, 4, 6), (2, 3, 4, 5), (2, 3, 4, 5, 6), (2, 4), (3, 4), (3, 4, 5, 6), (4, 6))
        },
        "fused by": {
            "arithmetic mean": unit(torch.stack(usual).mean(0)),
            "power mean of 1/2": unit(torch.stack(usual).sqrt().mean(0).square()),
            "maximum": unit(torch.stack(usual).amax(0)),
            "minimum": unit(torch.stack(usual).amin(0)),
            "product": geometric(usual) ** len(usual),
        },
        "rectified": {
            "gradient and activation each": geometric(stages(passes, "logit, each")),
            "after the sum over channels": geometric(stages(passes, "logit, sum")),
            "Grad-CAM's weights": geometric(stages(passes, "logit, Grad-CAM")),
        },
        "gradient of": {
            name: geometric(stages(passes, f"{name}, product"))
            for name in ("probability", "less the mean logit", "less .6 of its rivals', as FinerCAM")
        },
        "times": {
            "activation, any class": geometric([*usual, activation]),
            "its root": geometric([geometric(usual), geometric(usual), activation]),
            "a centred Gaussian": unit(geometric(usual) * _gaussian(half, 0.2)),
            "a wide one": unit(geometric(usual) * _gaussian(half, 0.4)),
        },
        "views": {
            "1.5": geometric(stages(passes, f"{USUAL}, scale 1.5")),
            "2": geometric(stages(passes, f"{USUAL}, scale 2")),
            "1 and 2": geometric(usual + stages(passes, f"{USUAL}, scale 2")),
            "1, 1.5 and 2": geometric([part for name in ("", ", scale 1.5", ", scale 2")
                                       for part in stages(passes, f"{USUAL}{name}")]),
            "1 and its mirror image": geometric(usual + stages(passes, f"{USUAL}, mirrored")),
        },
    }  # fmt: skip


def _gaussian(half: Tensor, deviation: float) -> Tensor:
    return torch.exp(-(half[:, None] ** 2 + half**2) / (2 * deviation**2))


def readings(maps: Tensor) -> dict[str, Tensor]:
    """Other ways to read evidence [N, h, w] out of maps."""
    above = evidence(maps, "contrast")
    return {
        "the map itself": maps,
        "its square": maps.square(),
        "contrast of its root": evidence(maps.sqrt(), "contrast"),
        "contrast of its square": evidence(maps.square(), "contrast"),
        "Otsu's upper part as it is": maps * (above > 0),
        "Otsu's upper part, 1": (above > 0).float(),
    }


def walks(passes: Passes) -> dict[str, Walk]:
    """Other ways to spread one pass."""
    usual = features(passes)
    side = (torch.arange(usual[0].shape[2]) + 0.5) / usual[0].shape[2]
    places = torch.cartesian_prod(side, side)
    near = torch.exp(-torch.cdist(places, places).square() / (2 * 0.2**2))
    stage_sets = ((1,), (2,), (4,), (6,), (1, 4), (2, 4), (4, 6), (1, 2, 4, 6))
    return {
        **{f"power {power}": walk(usual, power=power) for power in (2, 3, 5, 6)},
        **{f"{steps} steps": walk(usual, steps=steps) for steps in (1, 2, 6)},
        "features as they are, power 16": walk(usual, power=16, measure=uncentred),
        "near tokens only": walk(usual, near=near),
        **{f"stages {', '.join(map(str, chosen))}": walk(features(passes, chosen)) for chosen in stage_sets},
    }


def contests(passes: Passes, by: Walk) -> dict[str, Tensor]:
    """Maps [N, h, w] that are spread and contested, of one pass and of two."""
    label = by(geometric(stages(passes, USUAL)))
    rivals = {name: by(geometric(stages(passes, f"{name}, product"))) for name in ("rivals", *OTHER_RIVALS)}
    two = walk([*features(passes), *features(passes, scale=2)])
    of_two = [two(geometric(stages(passes, name) + stages(passes, f"{name}, scale 2"))) for name in (USUAL, THREE)]
    return {
        "three": contested(label, rivals["rivals"]),
        "three, times 1": contested(label, rivals["rivals"], rivalry=1.0),
        "three, times 4": contested(label, rivals["rivals"], rivalry=4.0),
        **{words: contested(label, rivals[name]) for name, words in OTHER_RIVALS.items()},
        "three, before spreading": by(contested(geometric(stages(passes, USUAL)), geometric(stages(passes, THREE)))),
        "scales 1 and 2, three": contested(*of_two),
    }


def variants(passes: Passes) -> tuple[Groups, Groups]:
    """Evidence [N, h, w] of every choice: as fused, and spread."""
    usual = walk(features(passes), keep=True)
    on_views = {"2": walk(features(passes, scale=2))} | dict.fromkeys(
        ("1 and 2", "1, 1.5 and 2"), walk([*features(passes), *features(passes, scale=2)], keep=True)
    )
    fused, spread = Groups(), Groups()
    for part, by_choice in fused_choices(passes).items():
        for choice, maps in by_choice.items():
            by = on_views.get(choice, usual) if part == "views" else usual
            fused.setdefault(part, {})[choice] = evidence(maps, "contrast")
            spread.setdefault(part, {})[choice] = evidence(by(maps), "contrast")
    maps = geometric(stages(passes, USUAL))
    fused["read as"], spread["read as"] = readings(maps), readings(usual(maps))
    spread["spread by"] = {name: evidence(by(maps), "contrast") for name, by in walks(passes).items()}
    each = geometric([usual(part) for part in stages(passes, USUAL)])
    spread["spread by"]["each stage before they are fused"] = evidence(each, "contrast")
    binary = usual((evidence(maps, "contrast") > 0).float())
    spread["spread by"]["a binary map"] = evidence(binary, "contrast")
    fused["rivals"] = {"three": evidence(contested(maps, geometric(stages(passes, THREE))), "contrast")}
    spread["rivals"] = {name: evidence(found, "contrast") for name, found in contests(passes, usual).items()}
    return fused, spread


def measure(folder: Path, seeds: int) -> dict[str, Any]:
    """By part and choice: the error in shares of the area's, with 95 %, and that on photographs without objects."""
    look = Look(stamp_folder())
    images, _, _ = load(folder, look, {"label": [folder / split / f"{TEACHER}-label" for split in SPLITS]})
    passes, views = collect(folder)
    found: dict[str, Any] = {}
    for name, groups in zip(("fused", "spread"), variants(passes), strict=True):
        given = {f"{part}: {choice}": (maps, views) for part, by_choice in groups.items()
                 for choice, maps in by_choice.items()}  # fmt: skip
        errors, image = errors_of(given, images.masks, seeds)
        without = torch.from_numpy(bare(images)[image])
        for choice, error in errors.items():
            ratio = float(error.sum() / errors["area"].sum())
            on_bare = float(error[without].sum() / errors["area"][without].sum())
            found.setdefault(choice, {})[name] = {
                "ratio_to_area": round(ratio, 4),
                "interval": interval(errors, images.object[image], choice),
                "without_objects": round(on_bare, 4),
            }
    return {"teacher": TEACHER, "images": len(views), "seeds": seeds, "choices": found, "machine": machine()}


def format_table(result: Mapping[str, Any]) -> str:
    """The figures of `measure` as text."""
    lines = []
    for choice, forms in result["choices"].items():
        shown = [
            f"{name} {figures['ratio_to_area']:.3f} [{figures['interval'][0]:.3f}, {figures['interval'][1]:.3f}] "
            f"({figures['without_objects']:.3f})"
            for name, figures in forms.items()
        ]
        lines.append(f"{choice:55}" + "   ".join(shown))
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3, help="of crops and masks")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "evidence_variants.json")
    given = parser.parse_args()
    result = measure(given.folder, given.seeds)
    print(format_table(result))
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
