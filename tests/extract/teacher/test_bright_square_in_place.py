"""The same square at one place, for images of four aspects: within one token of where it was painted."""

import io
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from extract.images.image_list import ImageList
from extract.job.decoding import Decoder
from extract.settings import TeacherSpec
from extract.teacher.timm_teacher import TimmTeacher
from tokenmix_loader import align

SIZES = [(160, 120), (120, 160), (140, 140), (240, 100)]
GRID = 40


@cache
def teacher_of(mode: str) -> TimmTeacher:
    spec = TeacherSpec("test_resnet", random_weights=0, num_classes=2, input_size=(128, 128), crop_mode=mode,
                       crop_pct=0.9, kind="activation", model_args={"output_stride": 8})  # fmt: skip
    teacher = TimmTeacher(spec)
    for kernel in teacher.model.parameters():
        if kernel.ndim == 4:  # an untrained one leans to some side, by a token in all
            kernel.copy_((kernel + kernel.flip(2) + kernel.flip(3) + kernel.flip(2, 3)) / 4)
    return teacher


def encoded(size: tuple[int, int], square: tuple[int, int, int, int] | None) -> bytes:
    rng = np.random.default_rng(0)
    photograph = Image.fromarray(rng.integers(60, 120, (12, 16, 3), dtype=np.uint8)).resize(size)
    if square:
        photograph.paste((255, 255, 255), square)
    file = io.BytesIO()
    photograph.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", SIZES)
def test_the_square_is_found(mode: str, size: tuple[int, int]) -> None:
    """By the centre of what it changes in the map, in the whole image's coordinates, to one token of the teacher."""
    width, height = size
    x, y, side = round(0.36 * width), round(0.6 * height), 16
    decoder = Decoder(ImageList(io, [], np.zeros(0, np.int32), []), teacher_of(mode).preprocessing)  # type: ignore[arg-type]
    samples = [decoder.decode(0, encoded(size, square)) for square in (None, (x, y, x + side, y + side))]
    pixels = torch.stack([sample.pixels for sample in samples if sample.pixels is not None])
    plain, painted = teacher_of(mode).start(pixels, torch.zeros(2, dtype=torch.int64)).result().payload["activation"]
    changed = (painted - plain).abs()
    changed = (changed - changed.max() / 4).relu()
    view = torch.tensor([samples[1].view])
    whole = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]], dtype=torch.float64)
    tokens = align(changed[None], view, whole, (GRID, GRID))[0].double()
    centres = (torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID
    found_x = float((tokens.sum(0) * centres).sum() / tokens.sum())
    found_y = float((tokens.sum(1) * centres).sum() / tokens.sum())
    token_w, token_h = ((view[0, 2:] - view[0, :2]) / changed.shape[0]).tolist()
    assert abs(found_x - (x + side / 2) / width) < token_w
    assert abs(found_y - (y + side / 2) / height) < token_h
