"""The teacher's input and its view: checked against what timm's transform does to an image that knows where it is."""

from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

from extract.images.listing import list_images
from extract.job.decoding import Decoder
from extract.teacher.preprocess import Normaliser, Preprocessing
from tests.extract.conftest import MakeFolder, ramp

PLAIN: dict[str, Any] = dict(interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@example(width=20, height=285, mode="border", size=(64, 64), pct=1.0)
@settings(max_examples=150, deadline=None)
@given(
    width=st.integers(20, 300),
    height=st.integers(20, 300),
    mode=st.sampled_from(["center", "squash", "border"]),
    size=st.sampled_from([(64, 64), (64, 96), (96, 48)]),
    pct=st.sampled_from([1.0, 0.95, 0.875]),
)
def test_view_is_where_the_pixels_come_from(
    width: int, height: int, mode: str, size: tuple[int, int], pct: float
) -> None:
    """Colours at the input's pixel centres name their place in the image; the view must predict them."""
    preprocessing = Preprocessing(size, mode, pct, **PLAIN)
    transform = create_transform(size, crop_mode=mode, crop_pct=pct, interpolation="bilinear", normalize=False)
    pixels = np.asarray(transform(ramp(width, height)), dtype=float)
    x0, y0, x1, y1 = preprocessing.view(width, height)
    h, w = size
    x = x0 + (x1 - x0) * (np.arange(w) + 0.5) / w
    y = y0 + (y1 - y0) * (np.arange(h) + 0.5) / h
    # away from where interpolation clamps: within one pixel of the input, or half a pixel of the image
    inside_x, inside_y = (abs(at - 0.5) < 0.5 - max(0.1, step) for at, step in ((x, (x1 - x0) / w), (y, (y1 - y0) / h)))
    if not (inside_x.any() and inside_y.any()):
        return
    red = pixels[0][np.ix_(inside_y, inside_x)] / 255
    green = pixels[1][np.ix_(inside_y, inside_x)] / 255
    tolerance = 1.5 / 255 + 0.35 / min(width, height)
    assert np.abs(red - x[inside_x]).max() < tolerance
    assert np.abs(green - y[inside_y][:, None]).max() < tolerance


def test_whole_image_squashed_is_the_unit_square() -> None:
    assert Preprocessing((96, 96), "squash", 1.0, **PLAIN).view(640, 333) == (0, 0, 1, 1)


def test_border_view_reaches_outside() -> None:
    x0, y0, x1, y1 = Preprocessing((100, 100), "border", 1.0, **PLAIN).view(200, 100)
    assert (x0, x1) == (0, 1)
    assert (y0, y1) == (-0.5, 1.5)


@pytest.mark.parametrize("name", ["resnet26.bt_in1k", "dm_nfnet_f0.dm_in1k", "test_resnet.r160_in1k"])
def test_pixels_and_normalisation_are_the_models_own(name: str, make_folder: MakeFolder) -> None:
    """uint8 to the device and normalised there == timm's own evaluation transform, bit for bit."""
    if name.startswith("dm_"):
        model: torch.nn.Module = timm.create_model(
            "test_resnet", pretrained_cfg=timm.get_pretrained_cfg(name).to_dict()
        )
    else:
        model = timm.create_model(name)
    theirs = create_transform(**resolve_model_data_config(model))
    images = list_images(make_folder({"a": ["1.jpg", "2.jpg"]}))
    decoder = Decoder(images, Preprocessing.of_model(model))
    normalise = Normaliser(decoder.preprocessing, torch.device("cpu"))
    pixels = decoder[0].pixels
    assert pixels is not None
    with images.open(0) as file:
        assert torch.equal(normalise(pixels[None])[0], theirs(Image.open(file).convert("RGB")))
