"""Small real image folders for the extraction's tests."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from extract.images.image_list import ImageList
from extract.images.listing import list_images
from extract.teacher.timm_teacher import TimmTeacher
from tests.extract.jobs import NAMES, SPEC, run

torch.set_num_threads(1)  # several measure the machine, and wait for each other where it is busy

MakeFolder = Callable[..., Path]


def ramp(width: int, height: int) -> Image.Image:
    """An image that knows where it is: red rises with x, green with y, from 0 to 255 at pixel centres."""
    x = np.round(255 * (np.arange(width) + 0.5) / width)
    y = np.round(255 * (np.arange(height) + 0.5) / height)
    pixels = np.stack([np.broadcast_to(x, (height, width)), np.broadcast_to(y[:, None], (height, width)),
                       np.full((height, width), 128.0)], -1)  # fmt: skip
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """`make_folder({"cat": ["a.jpg", ...]})` writes small JPEGs of mixed size and returns the root."""

    def make(classes: dict[str, list[str]], root: str = "images") -> Path:
        sizes = iter([(64, 48), (48, 64), (50, 50), (70, 40)] * 1000)
        for name, files in classes.items():
            folder = tmp_path / root / name
            folder.mkdir(parents=True, exist_ok=True)
            for file in files:
                ramp(*next(sizes)).save(folder / file)
        return tmp_path / root

    return make


@pytest.fixture(scope="session")
def teacher() -> TimmTeacher:
    """A teacher for the images of `tests.extract.jobs`."""
    return TimmTeacher(SPEC)


@pytest.fixture
def images(make_folder: MakeFolder) -> ImageList:
    """The images of `tests.extract.jobs`."""
    return list_images(make_folder(NAMES))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, teacher: TimmTeacher) -> Path:
    """Images, others of the same names, sizes in px and labels, and a store of the first; not to be touched."""
    root = tmp_path_factory.mktemp("made")
    for number, key in enumerate(f"{name}/{file}" for name, files in NAMES.items() for file in files):
        for folder, method in (("images", Image.Transpose.ROTATE_180), ("others", Image.Transpose.FLIP_TOP_BOTTOM)):
            (root / folder / key).parent.mkdir(parents=True, exist_ok=True)
            ramp(48 + number % 3, 50).transpose(method).save(root / folder / key)
    run(list_images(root / "images"), root / "maps", teacher)
    return root
