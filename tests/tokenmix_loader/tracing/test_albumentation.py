"""Albumentations' pipelines, where the package is there: it brings an OpenCV of its own, so no extra has it."""

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import transforms as tv

from tests.tokenmix_loader.tracing.traced_runs import ramps
from tokenmix_loader import UntraceableTransform, trace

A = pytest.importorskip("albumentations")

GEOMETRY: dict[str, Callable[[], list[Any]]] = {
    "crop": lambda: [A.RandomResizedCrop((120, 160), scale=(0.3, 1))],
    "crop, flips": lambda: [A.RandomResizedCrop((90, 90)), A.HorizontalFlip(), A.VerticalFlip()],
    "resize, centre": lambda: [A.SmallestMaxSize(128), A.CenterCrop(96, 112)],
    "squash, random crop": lambda: [A.Resize(150, 150), A.RandomCrop(100, 120)],
    "affine": lambda: [A.Affine(scale=(0.8, 1.2), rotate=(-20, 20), translate_percent=0.1, shear=(-8, 8))],
    "rotate": lambda: [A.Rotate(30, p=1.0)],
    "shift, scale, rotate": lambda: [A.Affine(translate_percent=(-0.1, 0.1), p=1.0), A.HorizontalFlip(p=0.5)],
    "quarter turns": lambda: [A.RandomRotate90(p=1.0), A.Transpose(p=0.5), A.HorizontalFlip(p=0.5)],
    "colours at times": lambda: [A.HorizontalFlip(p=0.5), A.OneOf([A.ToGray(), A.ISONoise()], p=0.0)],
}


@pytest.mark.parametrize("name", GEOMETRY)
def test_the_affine_is_where_the_pixels_come_from(name: str) -> None:
    moved = 0
    for seed in range(8):
        pixels, affine = trace(A.Compose(GEOMETRY[name](), seed=seed))(ramps())
        height, width = pixels.shape[:2]
        v, u = np.mgrid[:height, :width] + 0.5
        x, y = np.einsum("ij,jvu->ivu", affine, np.stack((u / width, v / height, np.ones_like(u))))
        shown = pixels[..., :2].astype(float) + 0.5
        expected = np.stack((x * 220, y * 160), axis=-1)
        inner = (np.abs(u / width - 0.5) < 0.375) & (np.abs(v / height - 0.5) < 0.375)
        inside = inner & (x > 0.05) & (x < 0.95) & (y > 0.05) & (y < 0.95)
        assert inside.sum() > 100
        assert np.quantile(np.abs(shown - expected)[inside], 0.95) < 1.6
        moved += not np.allclose(affine, np.eye(3)[:2])
    assert moved > 2


def test_images_and_random_streams_are_those_of_the_pipeline() -> None:
    steps = [A.RandomResizedCrop((64, 64)), A.HorizontalFlip(), A.ColorJitter(), A.Rotate(30), A.GaussianBlur(p=0.3)]
    plain = A.Compose(steps, seed=3)
    expected = [plain(image=np.asarray(ramps()))["image"] for _ in range(6)]
    traced = trace(A.Compose(steps, seed=3))
    np.testing.assert_array_equal([traced(ramps())[0] for _ in range(6)], expected)
    again = pickle.loads(pickle.dumps(trace(A.Compose(steps, seed=3))))
    np.testing.assert_array_equal([again(ramps())[0] for _ in range(6)], expected)


def test_it_may_stand_in_a_pipeline_of_torchvision() -> None:
    image, affine = trace(tv.Compose([A.Compose([A.HorizontalFlip(p=1.0)]), tv.ToTensor()]))(ramps())
    assert torch.is_tensor(image)
    np.testing.assert_array_equal(affine, [[-1, 0, 1], [0, 1, 0]])


@pytest.mark.parametrize(
    ("steps", "named"),
    [
        (
            lambda: [A.Resize(8, 8), A.Compose([A.ElasticTransform()])],
            r"transforms\[1\].transforms\[0\].*ElasticTransform",
        ),
        (lambda: [A.OneOf([A.HorizontalFlip(), A.VerticalFlip()])], r"transforms\[0\].*OneOf"),
        (lambda: [A.Compose([A.HorizontalFlip()], p=0.5)], r"transforms\[0\].*Compose"),
    ],
)
def test_what_cannot_be_recorded_is_refused_by_name(steps: Callable[[], list[Any]], named: str) -> None:
    with pytest.raises(UntraceableTransform, match=f"{named}: expected a transform whose geometry"):
        trace(A.Compose(steps()))


def test_what_pads_or_cuts_borders_is_refused_when_it_does() -> None:
    with pytest.raises(TypeError, match="found one that pads"):
        trace(A.Compose([A.CenterCrop(200, 300, pad_if_needed=True)]))(ramps())
    with pytest.raises(TypeError, match="found crop_border"):
        trace(A.Compose([A.Rotate((20, 20), crop_border=True, p=1.0)]))(ramps())
