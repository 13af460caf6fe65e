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
    "affine": lambda: [A.Affine(scale=(0.8, 1.2), rotate=(-20, 20), translate_percent=(-0.1, 0.1), shear=(-8, 8))],
    "rotate": lambda: [A.Rotate((-30, 30), p=1.0)],
    "rotate and cut": lambda: [A.Rotate((20, 20), crop_border=True, p=1.0), A.HorizontalFlip(p=0.5)],
    "rotate and shrink": lambda: [A.SafeRotate((-30, 30), p=1.0)],
    "padded crop": lambda: [A.CenterCrop(200, 300, pad_if_needed=True), A.RandomCrop(140, 200)],
    "pad": lambda: [A.PadIfNeeded(200, 250), A.RandomCropFromBorders(p=1.0)],
    "crop and pad": lambda: [A.CropAndPad(px=(-20, 20), p=1.0)],
    "turn and reflect": lambda: [A.D4(p=1.0)],
    "one of": lambda: [A.OneOf([A.HorizontalFlip(), A.RandomResizedCrop((90, 90)), A.D4()], p=0.9)],
    "two of, in any order": lambda: [A.RandomOrder([A.HorizontalFlip(), A.Transpose(), A.CenterCrop(90, 99)], n=2)],
    "at times": lambda: [A.Compose([A.HorizontalFlip(p=1.0), A.Sequential([A.CenterCrop(90, 90)])], p=0.5)],
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
    steps = [
        A.RandomResizedCrop((64, 64)),
        A.HorizontalFlip(),
        A.ColorJitter(),
        A.Rotate((-30, 30)),
        A.GaussianBlur(p=0.3),
    ]
    plain = A.Compose(steps, seed=3)
    expected = [plain(image=np.asarray(ramps()))["image"] for _ in range(6)]
    traced = trace(A.Compose(steps, seed=3))
    np.testing.assert_array_equal([traced(ramps())[0] for _ in range(6)], expected)
    again = pickle.loads(pickle.dumps(trace(A.Compose(steps, seed=3))))
    np.testing.assert_array_equal([again(ramps())[0] for _ in range(6)], expected)


def test_a_transform_that_stands_in_several_places() -> None:
    flip = A.HorizontalFlip(p=0.5)
    pipeline = A.Compose([flip, A.OneOf([flip, A.VerticalFlip()], p=0.5), A.NoOp(), flip], seed=1)
    traced = trace(pipeline)
    found = set()
    for _ in range(40):
        pixels, affine = traced(ramps(50, 30))
        mirrored = pixels[0, 0, 0] > 0, pixels[0, 0, 1] > 0
        assert mirrored == (affine[0, 0] < 0, affine[1, 1] < 0)
        found.add(mirrored)
    assert len(found) == 4


def test_what_is_called_beside_records_nothing() -> None:
    """Its transforms are the traced ones."""
    flip = A.HorizontalFlip(p=1.0)
    traced = trace(A.Compose([flip]))
    flip(image=np.asarray(ramps()))
    np.testing.assert_array_equal(traced(ramps())[1], [[-1, 0, 1], [0, 1, 0]])
    assert trace(A.Compose([flip]))(ramps())[1][0, 0] == -1


def test_a_transform_that_comes_into_the_pipeline_later_is_refused() -> None:
    pipeline = A.Compose([A.NoOp(), A.OneOf([A.NoOp()])])
    traced = trace(pipeline)
    pipeline.transforms[1].transforms = [A.HorizontalFlip(p=1.0)]
    with pytest.raises(UntraceableTransform, match="found HorizontalFlip.* new in it"):
        traced(ramps())


class Mirror(A.ImageOnlyTransform):  # type: ignore[name-defined, misc]
    def apply(self, img: Any, **_: Any) -> Any:
        return img[:, ::-1]


def test_a_class_of_the_user_s_may_do_anything() -> None:
    with pytest.raises(UntraceableTransform, match=r"transforms\[0\].transforms\[0\]: .*Mirror"):
        trace(A.Compose([A.OneOf([Mirror(p=1.0)])]))


def test_pixels_that_come_from_elsewhere_are_refused_by_name_and_version() -> None:
    noise = A.GaussNoise(p=1.0)
    noise._key2func["image"] = lambda image, **_: np.ascontiguousarray(image[:, ::-1])
    with pytest.raises(UntraceableTransform, match=rf"transforms\[1\].*GaussNoise \(albumentations {A.__version__}"):
        trace(A.Compose([A.HorizontalFlip(), noise]))


def test_versions_with_other_parameters_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(A, "__version__", "1.4.15")
    with pytest.raises(UntraceableTransform, match=r"expected albumentations 1.4.19 or later.* found 1.4.15; update"):
        trace(A.Compose([A.HorizontalFlip()]))


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
    ],
)
def test_what_cannot_be_recorded_is_refused_by_name(steps: Callable[[], list[Any]], named: str) -> None:
    with pytest.raises(UntraceableTransform, match=f"{named}: expected a transform whose geometry"):
        trace(A.Compose(steps()))
