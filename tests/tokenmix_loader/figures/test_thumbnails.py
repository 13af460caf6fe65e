"""A thumbnail lights the right part of the photograph, and five hundred of them fit into a page."""

import base64
from importlib import resources
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from tokenmix_loader.figures.thumbnails import SIDE_PX, data_uri, overlay

WIDE = 4 * SIDE_PX, 2 * SIDE_PX


def light_of(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("L"), float)


def test_a_token_is_lit_at_its_place_in_the_view() -> None:
    """The view is the right half, which has 2 x 4 tokens; the one in the upper right corner has all evidence."""
    evidence = np.zeros((2, 4), np.float32)
    evidence[0, 3] = 5
    picture = overlay(Image.new("RGB", WIDE, (200, 200, 200)), evidence, np.array([0.5, 0, 1, 1], np.float32))
    assert picture.size == (SIDE_PX, SIDE_PX // 2)
    light = light_of(picture)
    middle, eighth = SIDE_PX // 4, SIDE_PX // 8
    unseen, seen, lit = light[:, : SIDE_PX // 2], light[middle:, SIDE_PX // 2 :], light[:middle, -eighth:]
    assert unseen.max() < seen.min() == seen.max() < lit.min()
    assert light[:middle, SIDE_PX // 2 : -eighth].max() == seen.max()


def test_a_map_without_evidence_lights_nothing() -> None:
    light = light_of(overlay(Image.new("RGB", WIDE, (200, 200, 200)), np.zeros((3, 3)), np.array([0.0, 0, 1, 1])))
    assert light.min() == light.max() < 200


def test_flat_colours_are_kept() -> None:
    picture = Image.new("RGB", (8, 8), (214, 94, 0))
    again = Image.open(BytesIO(base64.b64decode(data_uri(picture, exact=True).partition(",")[2])))
    assert again.format == "PNG"
    assert again.getcolors() == [(64, (214, 94, 0))]


def test_five_hundred_photographs_fit_into_a_page() -> None:
    """Of 5 MB, of which the mixes and the tables take less than one."""
    folder = Path(str(resources.files("skimage"))) / "data"
    rng = np.random.default_rng(0)
    sizes = []
    for name in ("coffee.png", "camera.png", "astronaut.png", "gravel.png", "grass.png", "rocket.jpg", "chelsea.png"):
        photograph = Image.open(folder / name).convert("RGB")
        maps = rng.gamma(0.4, 1, (18, 18))
        sizes.append(len(data_uri(overlay(photograph, maps, np.array([0.0, 0, 1, 1])))))
    assert 500 * np.mean(sizes) < 4e6
