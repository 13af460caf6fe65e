"""One teacher's passes over the images of benchmarks.evidence, kept apart so that they can be put together in any way.

Of every image: LayerCAM of its label at six stages, at three scales, of the mirror image; of other quantities than the
label's logit, and with other ways to make a map of gradients and activations; features of some stages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.evidence.scores import SPLITS
from extract import TeacherSpec
from extract.images import list_images
from extract.job.decoding import Decoder
from extract.teacher.kinds.cam import Cam, rivals_of, unit
from extract.teacher.presets import make_teacher
from extract.teacher.timm_teacher import TimmTeacher
from store import MapStore

TEACHER: Final = "efficientnet_lite0"
STAGES: Final = tuple(f"blocks.{number}" for number in range(1, 7))  # of stride 4, 8, 16, 16, 32, 32
USUAL: Final = "logit, product"
SCALES: Final = (1.0, 1.5, 2.0)
FEATURES: Final = {1.0: (1, 2, 4, 6), 2.0: (1, 2, 4)}  # stages, counted from 1, by scale
BATCH: Final = 12
RIVALS: Final = 3  # as FinerCAM has it

Passes = dict[str, Tensor]  # maps [N, 6, 28, 28] float16, by what they are of; features [N, C, 28, 28] float16


def _label(logits: Tensor, label: Tensor) -> Tensor:
    return logits.gather(1, label[:, None])[:, 0]


def _all_rivals(logits: Tensor, label: Tensor) -> Tensor:
    """The logit of being any other class."""
    return logits.scatter(1, label[:, None], -torch.inf).logsumexp(1)


# Of logits [B, K] and labels [B], the quantity [B] whose gradient is taken.
TARGETS: Final[Mapping[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "logit": _label,
    "probability": lambda logits, label: _label(logits.softmax(1), label),
    "less the mean logit": lambda logits, label: _label(logits, label) - logits.mean(1),
    "less .6 of its rivals', as FinerCAM": lambda logits, label: (
        _label(logits, label) - 0.6 * rivals_of(logits, label, RIVALS)
    ),
    "rivals": lambda logits, label: rivals_of(logits, label, RIVALS),
    "one rival": lambda logits, label: rivals_of(logits, label, 1),
    "ten rivals": lambda logits, label: rivals_of(logits, label, 10),
    "all rivals": _all_rivals,
}
# Of gradients and activations [B, C, h, w], a map [B, h, w].
REDUCTIONS: Final[Mapping[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "product": lambda slope, value: (slope * value).relu().sum(1),
    "each": lambda slope, value: (slope.relu() * value.relu()).sum(1),
    "sum": lambda slope, value: (slope * value).sum(1).relu(),
    "Grad-CAM": lambda slope, value: (slope.mean((2, 3), keepdim=True) * value).sum(1).relu(),
    "activation": lambda _, value: value.square().sum(1).sqrt(),
}


def collect(folder: Path) -> tuple[Passes, Tensor]:
    """All passes over both splits, and the images' views [N, 4]; made once for these images, some ten minutes."""
    digests = [MapStore(folder / split / f"{TEACHER}-label").header.content_digest for split in SPLITS]
    asked = repr((digests, STAGES, SCALES, FEATURES, [*TARGETS], [*REDUCTIONS]))
    path = folder / f"passes-{TEACHER}-{hashlib.sha256(asked.encode()).hexdigest()[:12]}.pt"
    if not path.exists():
        parts = [part for split in SPLITS for part in _passes_over(folder / split)]
        torch.save({name: torch.cat([part[name] for part in parts]) for name in parts[0]}, path)
    found: Passes = torch.load(path, weights_only=True)
    return found, found.pop("views")


def _passes_over(root: Path) -> Iterator[Passes]:
    """Of each batch."""
    names = ",".join(STAGES)
    teacher = make_teacher(TeacherSpec(TEACHER, kind="cam", device="cpu", cam_stage=names, scales=(1.0, max(SCALES))))
    assert isinstance(teacher, TimmTeacher)
    kind: Any = teacher._kind
    store, listed = MapStore(root / f"{TEACHER}-label"), list_images(root / "images")
    classes = torch.from_numpy(np.asarray(store.header.teacher_class)[store.labels]).long()
    decoder = Decoder(listed, teacher.preprocessing)
    for rows in torch.split(torch.arange(len(store)), BATCH):
        samples = [decoder._load(row) for row in rows.tolist()]
        pixels = torch.stack([torch.as_tensor(np.asarray(sample.pixels)) for sample in samples])
        views = torch.as_tensor(np.stack([sample.view for sample in samples])).float()
        yield _of_batch(kind, teacher.normalise(pixels), classes[rows]) | {"views": views}


def _of_batch(kind: Cam, images: Tensor, labels: Tensor) -> Passes:
    found: Passes = {}
    for scale in SCALES:
        size = [round(side * scale) for side in kind._size]
        view = functional.interpolate(images, size, mode="bicubic", antialias=True)
        targets = TARGETS if scale == 1 else {name: TARGETS[name] for name in ("logit", "rivals", "all rivals")}
        for target, by_reduction in _maps_of(kind, view, labels, targets, found, scale).items():
            for reduction, maps in by_reduction.items():
                found[f"{target}, {reduction}" + (f", scale {scale:g}" if scale != 1 else "")] = maps
        if scale == 1:
            mirrored = _maps_of(kind, view.flip(3), labels, {"logit": _label}, {}, scale)
            found[f"{USUAL}, mirrored"] = mirrored["logit"]["product"].flip(3)
    return found


def _maps_of(
    kind: Cam,
    images: Tensor,
    labels: Tensor,
    targets: Mapping[str, Callable[[Tensor, Tensor], Tensor]],
    features: Passes,
    scale: float,
) -> dict[str, dict[str, Tensor]]:
    """Maps [B, 6, 28, 28] of one forward pass, by target and reduction; other reductions of the logit's only."""
    with torch.enable_grad():
        logits, seen = kind._stages.look(images)
        outputs = [seen[stage].output for stage in STAGES]
        slopes = {
            name: torch.autograd.grad(target(logits, labels).sum(), outputs, retain_graph=True)
            for name, target in targets.items()
        }
    found: dict[str, dict[str, list[Tensor]]] = {}
    for number, name in enumerate(STAGES):
        stage = seen[name]
        values = stage.tokens(stage.output.detach())
        if number + 1 in FEATURES.get(scale, ()):
            features[f"features {number + 1}, scale {scale:g}"] = stage.on(kind.grid, values).half()
        for target, slope in slopes.items():
            chosen = REDUCTIONS if target == "logit" and scale == 1 else {"product": REDUCTIONS["product"]}
            for form, reduction in chosen.items():
                maps = reduction(stage.tokens(slope[number]), values)[:, None]
                found.setdefault(target, {}).setdefault(form, []).append(unit(stage.on(kind.grid, maps)[:, 0]))
    return {
        target: {name: torch.stack(maps, 1).half() for name, maps in by_reduction.items()}
        for target, by_reduction in found.items()
    }
