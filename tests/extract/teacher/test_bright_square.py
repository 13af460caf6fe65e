"""A bright square on a photograph, through preprocessing, teacher and view, is where the loader looks for it."""

import io
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from extract.images.image_list import ImageList
from extract.job.decoding import Decoder
from extract.settings import TeacherSpec
from extract.teacher.timm_teacher import TimmTeacher
from tokenmix_loader import align

IMAGE = {"center": (300, 240), "squash": (240, 300), "border": (280, 240)}  # width, height in px
PLACES = 8
COLOURS = ((255, 60, 60), (60, 255, 60), (60, 60, 255))  # random weights lean to another side with each
PHOTOGRAPHS = 6  # and as many labels: one label's weights lean to some side
FEW = 3  # enough where all channels of the tokens are seen
FINE = 104  # cells of a fused map
GRID = 120  # of the whole image, on which responses are laid
SMALL_SWIN = {"depths": (1, 1, 1, 1), "embed_dim": 24, "num_heads": (1, 2, 4, 8)}
PADDED = {"dynamic_img_size": True, "dynamic_img_pad": True}
# With random weights EfficientNets look up to 4 tokens far, so the border must be farther.
TEACHERS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "resnet18": ("resnet18", 224, {}),
    "resnet26": ("resnet26", 224, {}),
    "efficientnet_lite0": ("tf_efficientnet_lite0", 448, {}),
    "dynamic padding": ("test_vit2", 200, PADDED),
    "output stride": ("test_resnet", 160, {"output_stride": 8}),
    "swin": ("swin_tiny_patch4_window7_224", 224, SMALL_SWIN),
}


@cache
def teacher_of(name: str, kind: str, *, flip: bool = False) -> TimmTeacher:
    model, size, args = TEACHERS[name]
    spec = TeacherSpec(model, random_weights=0, num_classes=PHOTOGRAPHS, input_size=(size, size), crop_pct=0.9)
    return TimmTeacher(replace(spec, kind=kind, model_args=args, flip_average=flip))


def encoded(seed: int, size: tuple[int, int], square: tuple[int, int, int, int] | None) -> bytes:
    rng = np.random.default_rng(seed)
    photograph = Image.fromarray(rng.integers(60, 120, (12, 16, 3), dtype=np.uint8)).resize(size)
    if square:
        photograph.paste(COLOURS[seed % len(COLOURS)], square)
    file = io.BytesIO()
    photograph.save(file, "PNG")
    return file.getvalue()


def squares(size: tuple[int, int], token: tuple[float, float]) -> list[tuple[int, int, int, int]]:
    """Of two tokens' side about the middle of the image, at places that are spread evenly over two tokens."""
    found = []
    for place in range(PLACES):
        phases = (place / PLACES, place * 3 % PLACES / PLACES)
        corner = [round(side / 2 + 2 * t * (phase - 1)) for side, t, phase in zip(size, token, phases, strict=True)]
        found.append((corner[0], corner[1], corner[0] + round(2 * token[0]), corner[1] + round(2 * token[1])))
    return found


def stored_maps(teacher: TimmTeacher, pixels: torch.Tensor, label: int) -> torch.Tensor:
    """Maps [N, h, w], or features [N, C, h, w]."""
    (found,) = teacher.start(pixels, torch.full((len(pixels),), label)).result().payload.values()
    return found


Maps = Callable[[TimmTeacher, torch.Tensor, int], torch.Tensor]


def mean_error(teacher: TimmTeacher, mode: str, maps: Maps = stored_maps, grid: tuple[int, int] | None = None) -> float:
    """Where the map changes, by its centre in the whole image, minus the square's; in tokens, of the worse axis.

    `grid`: how many tokens there are, if not as many as cells of the map.
    """
    photographs = FEW if teacher.depth > 1 or maps is not stored_maps else PHOTOGRAPHS
    errors = [errors_of(teacher, mode, seed, maps, grid or teacher.grid) for seed in range(photographs)]
    return float(np.abs(np.mean(errors, axis=0)).max())


def errors_of(teacher: TimmTeacher, mode: str, seed: int, maps: Maps, grid: tuple[int, int]) -> tuple[float, float]:
    """Across and down, the mean over places on one photograph."""
    size, preprocessing = IMAGE[mode], replace(teacher.preprocessing, crop_mode=mode)
    x0, y0, x1, y1 = preprocessing.view(*size)
    token = (x1 - x0) * size[0] / grid[1], (y1 - y0) * size[1] / grid[0]
    placed = squares(size, token)
    decoder = Decoder(ImageList(io, [], np.zeros(0, np.int32), []), preprocessing)  # type: ignore[arg-type]
    samples = [decoder.decode(0, encoded(seed, size, square)) for square in (None, *placed)]
    pixels = torch.stack([sample.pixels for sample in samples if sample.pixels is not None])
    found = maps(teacher, pixels, seed)
    changed = (found[1:] - found[0]).abs()
    if changed.ndim > 3:  # features
        changed = changed.norm(dim=1)
    changed = (changed - changed.amax((1, 2), keepdim=True) / 4).relu()
    views = torch.tensor([sample.view for sample in samples[1:]])
    whole = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]], dtype=torch.float64).expand(PLACES, 2, 3)
    tokens = align(changed, views, whole, (GRID, GRID)).double()
    centres = (torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID
    errors = []
    for axis in (0, 1):
        share = tokens.sum(1 + axis)
        expected = torch.tensor([(square[axis] + square[axis + 2]) / 2 for square in placed])
        at = (share * centres).sum(1) / share.sum(1) * size[axis]
        errors.append(float((at - expected).mean()) / token[axis])
    return errors[0], errors[1]


CASES = [
    ("resnet18", "activation"),
    ("resnet26", "activation"),
    ("dynamic padding", "activation"),
    ("resnet18", "label"),
    ("resnet26", "label"),
    ("dynamic padding", "label"),
    ("swin", "label"),
    ("swin", "features"),
    ("efficientnet_lite0", "features"),
]
# In `make test` the light models in one crop mode, and two of them in all; the others in `make test-slow`.
LIGHT = [case for case in CASES if case not in (("efficientnet_lite0", "features"), ("swin", "label"))]
QUICK = {(*case, "squash") for case in LIGHT} | {
    (name, "label", mode) for name in ("resnet18", "dynamic padding") for mode in IMAGE
}


@pytest.mark.parametrize(
    ("name", "kind", "mode"),
    [
        pytest.param(*case, mode, marks=() if (*case, mode) in QUICK else pytest.mark.slow)
        for case in CASES
        for mode in IMAGE
    ],
)
def test_the_square_is_found(name: str, kind: str, mode: str) -> None:
    assert mean_error(teacher_of(name, kind), mode) < 0.15


@pytest.mark.parametrize(
    "name", ["resnet18", "dynamic padding", "output stride", pytest.param("swin", marks=pytest.mark.slow)]
)
def test_the_square_is_found_by_every_stage_of_cam(name: str) -> None:
    """By features, as gradients of random weights lean to some side; on a grid so fine that a threshold cuts evenly."""
    teacher = teacher_of(name, "cam")
    stages = teacher._kind._stages  # type: ignore[attr-defined]
    grids = stages._layouts
    sound = {view: name for name, view in stages._views.items() if not view.problem}
    assert sound
    for stage in sound.values():

        def features(teacher: TimmTeacher, pixels: torch.Tensor, _: int, stage: str = stage) -> torch.Tensor:
            seen = stages.look(teacher.normalise(pixels))[1][stage]
            found: torch.Tensor = seen.on((FINE, FINE), seen.tokens(seen.output.detach()))
            return found

        assert mean_error(teacher, "squash", features, grids[stage].grid) < 0.15, stage


def test_the_square_is_found_in_the_mean_with_the_mirror_image() -> None:
    assert mean_error(teacher_of("resnet18", "activation", flip=True), "squash") < 0.15
