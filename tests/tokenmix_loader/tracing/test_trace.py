import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform
from timm.data import transforms as timm_tv
from timm.data.random_erasing import RandomErasing
from torchvision import transforms as tv
from torchvision.transforms import v2

from extract.teacher.preprocess import Preprocessing
from tests.tokenmix_loader.tracing.traced_runs import assert_same_run, landmark_errors_px, ramps, seed_all
from tokenmix_loader import UntraceableTransform, trace
from tokenmix_loader.tracing.trace import TracedTransform

GEOMETRY: dict[str, Callable[[], Any]] = {
    "resize": lambda: tv.Resize(90),
    "squash": lambda: tv.Resize((80, 120)),
    "keep ratio": lambda: timm_tv.ResizeKeepRatio(100, random_scale_prob=0.5, random_aspect_prob=0.5),
    "timm centre or pad": lambda: timm_tv.CenterCropOrPad((71, 260)),
    "timm crop or pad": lambda: timm_tv.RandomCropOrPad((71, 260)),
    "centre": lambda: tv.CenterCrop((71, 90)),
    "centre, padded": lambda: tv.CenterCrop((171, 200)),
    "crop": lambda: tv.RandomResizedCrop((60, 80)),
    "timm crop": lambda: timm_tv.RandomResizedCropAndInterpolation(64, interpolation="random"),
    "hflip": lambda: tv.RandomHorizontalFlip(),
    "vflip": lambda: tv.RandomVerticalFlip(),
    "random crop": lambda: tv.RandomCrop((90, 120), padding=(20, 4, 7, 0)),
    "random crop, mirrored": lambda: tv.RandomCrop((190, 230), padding=30, padding_mode="reflect"),
    "random crop, if needed": lambda: tv.RandomCrop((90, 260), pad_if_needed=True),
    "pad": lambda: tv.Pad((10, 30)),
    "timm pad": lambda: timm_tv.RandomPad((200, 256)),
    "timm border": lambda: timm_tv.TrimBorder(20),
    "v2 random crop": lambda: v2.RandomCrop((90, 120), padding=(20, 4, 7, 0)),
    "v2 random crop, if needed": lambda: v2.RandomCrop((190, 100), pad_if_needed=True, padding_mode="symmetric"),
    "v2 pad": lambda: v2.Pad((10, 30, 4, 2)),
    "v2 squash": lambda: v2.Resize((80, 120)),
    "v2 any size": lambda: v2.RandomResize(60, 90),
    "v2 centre, padded": lambda: v2.CenterCrop((171, 90)),
    "v2 crop": lambda: v2.RandomResizedCrop((60, 80)),
    "v2 hflip": lambda: v2.RandomHorizontalFlip(),
    "v2 vflip": lambda: v2.Compose([v2.RandomVerticalFlip()]),
    "at times": lambda: tv.RandomApply([tv.RandomCrop(80), tv.RandomHorizontalFlip()]),
    "one of": lambda: tv.RandomChoice([tv.Compose([tv.Pad(9), tv.RandomVerticalFlip()]), tv.RandomCrop(80)]),
    "in any order": lambda: tv.RandomOrder([tv.RandomCrop(90), tv.Pad((4, 0)), tv.RandomHorizontalFlip()]),
    "v2 at times": lambda: v2.RandomApply([v2.RandomCrop(80), v2.RandomHorizontalFlip()]),
    "v2 one of": lambda: v2.RandomChoice([v2.Compose([v2.Pad(9), v2.RandomVerticalFlip()]), v2.RandomCrop(80)]),
    "v2 in any order": lambda: v2.RandomOrder([v2.RandomCrop(90), v2.Pad((4, 0)), v2.RandomHorizontalFlip()]),
}
PIXELS: dict[str, Callable[[], Any]] = {
    "jitter": lambda: tv.ColorJitter(0.4, 0.4, 0.4, 0.1),
    "jitter at times": lambda: tv.RandomApply([tv.ColorJitter(0.4)]),
    "grey": lambda: tv.RandomGrayscale(0.5),
    "blur": lambda: tv.GaussianBlur(3),
    "solarize": lambda: tv.RandomSolarize(128),
    "v2 jitter at times": lambda: v2.RandomApply([v2.ColorJitter(0.4)]),
    "v2 blur": lambda: v2.GaussianBlur(3),
}
FINISH: dict[str, Callable[[], list[Any]]] = {
    "image": list,
    "uint8": lambda: [timm_tv.MaybePILToTensor()],
    "array": lambda: [timm_tv.ToNumpy()],
    "float": lambda: [tv.ToTensor(), tv.Normalize([0.5] * 3, [0.2] * 3), tv.RandomErasing()],
    "v2": lambda: [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.2] * 3)],
    "timm": lambda: [timm_tv.MaybeToTensor(), RandomErasing(0.5, mode="pixel", device="cpu")],
}
sides = st.integers(8, 60)
ANY_SIZE = [name for name in GEOMETRY if not any(word in name for word in ("random crop", "times", "one of", "order"))]
pipelines = st.tuples(
    st.lists(st.sampled_from([*ANY_SIZE, *PIXELS]), max_size=5), st.sampled_from([*FINISH]), st.booleans()
)


def build(names: list[str], finish: str, nested: bool) -> tv.Compose:
    steps = [(GEOMETRY | PIXELS)[name]() for name in names]
    return tv.Compose([tv.Compose(steps), *FINISH[finish]()] if nested else [*steps, *FINISH[finish]()])


@given(pipelines, st.integers(0, 2**31))
def test_images_and_random_streams_are_those_of_the_transform(pipeline: tuple[list[str], str, bool], seed: int) -> None:
    names, finish, nested = pipeline
    fixed_size = [*names, "squash"]
    assert_same_run(build(fixed_size, finish, nested), seed)


@pytest.mark.parametrize("name", sorted({*GEOMETRY} - {*ANY_SIZE}))
def test_images_and_random_streams_are_those_of_crops(name: str) -> None:
    for seed in range(4):
        assert_same_run(tv.Compose([GEOMETRY[name](), tv.Resize((20, 20))]), seed)


TIMM: dict[str, dict[str, Any]] = {
    "train": {"is_training": True, "auto_augment": None, "re_prob": 0.5},
    "train, prefetched": {"is_training": True, "auto_augment": None, "use_prefetcher": True},
    "train, all": {
        "is_training": True, "vflip": 0.5, "color_jitter_prob": 0.5, "grayscale_prob": 0.2,
        "gaussian_blur_prob": 0.5, "interpolation": "random",
    },
    "no augmentation": {"is_training": True, "no_aug": True},
    "train, RandAugment": {"is_training": True, "auto_augment": "rand-m5-mstd0.5", "re_prob": 0.25},
    "train, 3-Augment": {"is_training": True, "auto_augment": "3a", "color_jitter": 0.3},
    "train, keep ratio": {"is_training": True, "train_crop_mode": "rkrc"},
    "train, keep ratio, random": {"is_training": True, "train_crop_mode": "rkrr"},
    "evaluation": {"is_training": False},
    "evaluation, squash": {"is_training": False, "crop_mode": "squash", "crop_pct": 0.956},
    "evaluation, oblong": {"is_training": False, "input_size": (3, 96, 128)},
}  # fmt: skip


@pytest.mark.parametrize("name", TIMM)
def test_timm_s_transforms_work_unchanged(name: str) -> None:
    transform = create_transform(**({"input_size": 64} | TIMM[name]))
    for seed in range(6):
        assert_same_run(transform, seed)


@pytest.mark.parametrize("name", GEOMETRY)
def test_the_affine_is_where_the_pixels_come_from(name: str) -> None:
    for seed in range(10):
        errors = landmark_errors_px(GEOMETRY[name](), seed)
        assert errors.numel() > 100
        assert errors.max() < 1.01  # two roundings to whole grey levels


@pytest.mark.parametrize(
    "names",
    [
        ["crop", "hflip", "vflip"],
        ["hflip", "timm crop", "vflip"],
        ["resize", "centre", "hflip"],
        ["keep ratio", "centre", "hflip"],
        ["centre, padded", "vflip", "squash"],
        ["vflip", "centre", "crop"],
        ["v2 hflip", "v2 crop", "v2 vflip"],
    ],
)
def test_affines_compose_in_order(names: list[str]) -> None:
    for seed in range(10):
        errors = landmark_errors_px(tv.Compose([GEOMETRY[name]() for name in names]), seed)
        assert errors.numel() > 100
        assert errors.quantile(0.95) < 1.5


def test_tensors_have_the_affines_of_images() -> None:
    """v2 crops and flips tensors too; v1 draws otherwise."""
    steps = [v2.RandomResizedCrop(32), v2.RandomHorizontalFlip(), v2.CenterCrop(20)]
    for seed in range(5):
        found = []
        for first in ([], [v2.ToImage()]):
            seed_all(seed)
            found.append(trace(v2.Compose([*first, *steps]))(ramps())[1])
        np.testing.assert_array_equal(found[0], found[1])
        assert not np.array_equal(found[0], np.eye(3)[:2])


def test_every_outcome_of_the_flips_occurs() -> None:
    """Otherwise the tests above would prove nothing about them."""
    traced = trace(tv.Compose([tv.RandomHorizontalFlip(), tv.RandomVerticalFlip()]))
    torch.manual_seed(0)
    seen = {tuple(np.diag(traced(ramps())[1])) for _ in range(40)}
    assert seen == {(1, 1), (-1, 1), (1, -1), (-1, -1)}


@pytest.mark.parametrize("crop_mode", ["center", "border"])
@given(sides, sides, sides)
def test_centre_crops_begin_where_the_teacher_s_preprocessing_says(
    crop_mode: str, crop: int, width: int, height: int
) -> None:
    """Neither package may import the other, so each follows timm's and torchvision's rounding on its own."""
    teacher = Preprocessing((crop, crop), crop_mode, 0.9, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    settings = {"crop_mode": crop_mode, "crop_pct": 0.9, "interpolation": "bilinear"}
    transform = create_transform(crop, is_training=False, **settings)
    affine = TracedTransform(transform)(Image.new("RGB", (width, height)))[1]
    (x, _, x0), (_, y, y0) = affine
    np.testing.assert_allclose((x0, y0, x0 + x, y0 + y), teacher.view(width, height), atol=1e-12)


def test_threads_do_not_mix_up_their_records() -> None:
    """One traced transform for all of them."""
    traced = trace(tv.Compose([tv.RandomHorizontalFlip(), tv.RandomVerticalFlip(), tv.PILToTensor()]))

    def agree(_: int) -> bool:
        pixels, affine = traced(ramps(24, 16))
        return [pixels[0, 0, 0] > 0, pixels[1, 0, 0] > 0] == [affine[0, 0] < 0, affine[1, 1] < 0]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(agree, range(2000)))


def test_the_user_s_transform_is_not_touched() -> None:
    crop = tv.RandomResizedCrop(32)
    transform = tv.Compose([crop, timm_tv.RandomResizedCropAndInterpolation(32)])
    before = [copy.copy(vars(step)) for step in transform.transforms]
    trace(transform)(ramps())
    assert [vars(step) for step in transform.transforms] == before
    assert transform.transforms[0] is crop


def test_a_method_of_the_object_s_own_is_refused() -> None:
    """It would win over the recording method of the class, so nothing would be recorded."""
    crop = tv.RandomResizedCrop(32)
    crop.get_params = lambda *_: (0, 0, 8, 8)
    with pytest.raises(TypeError, match="expected the class's own get_params, found another in RandomResizedCrop"):
        trace(crop)


def test_what_is_traced_already_stays_as_it_is() -> None:
    traced = trace(tv.RandomHorizontalFlip())
    assert trace(traced) is traced


def test_it_pickles_for_spawned_workers() -> None:
    traced = trace(create_transform(32, is_training=True, auto_augment=None))
    again = pickle.loads(pickle.dumps(traced))
    results = []
    for each in (traced, again):
        seed_all(3)
        results.append(each(ramps()))
    assert torch.equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])
    assert results[0][1].dtype == np.float64
    assert results[0][1].shape == (2, 3)


class MyFlip(tv.RandomHorizontalFlip):  # type: ignore[misc]
    """May do anything."""


@pytest.mark.parametrize(
    ("transform", "named"),
    [
        (create_transform(32, is_training=True, auto_augment="augmix-m3"), r"transforms\[2\].*AugMixAugment"),
        (tv.AugMix(), "AugMix"),
        (tv.Compose([tv.Resize(8), tv.Compose([tv.RandomPerspective()])]), r"transforms\[1\].transforms\[0\].*Persp"),
        (tv.ElasticTransform(), "ElasticTransform"),
        (tv.RandomApply([tv.Resize(8), tv.RandomPerspective()]), r"transforms\[1\].*RandomPerspective"),
        (tv.FiveCrop(8), "FiveCrop"),
        (v2.RandomPerspective(), r"v2\._geometry\.RandomPerspective"),
        (v2.Compose([v2.Resize(8), v2.RandomZoomOut()]), r"transforms\[1\].*v2\._geometry\.RandomZoomOut"),
        (v2.RandomOrder([v2.Compose([v2.RandomPerspective()])]), r"transforms\[0\].transforms\[0\].*v2.*RandomPersp"),
        (lambda image: image, "function"),
        (MyFlip(), "MyFlip"),
        (create_transform(32, is_training=True, separate=True), "tuple"),
    ],
)
def test_what_cannot_be_recorded_is_refused_by_name(transform: Any, named: str) -> None:
    with pytest.raises(UntraceableTransform, match=f"(?s){named}.*; leave it out or use one of: .*RandomResizedCrop"):
        trace(transform)


@pytest.mark.parametrize("compose", [tv.Compose, v2.Compose])
def test_a_hook_may_do_anything(compose: Any) -> None:
    flip = tv.RandomHorizontalFlip()
    hooked = compose([tv.Resize((8, 8)), flip])
    trace(hooked)
    handle = flip.register_forward_hook(lambda *_: None)
    with pytest.raises(UntraceableTransform, match=r"transforms\S*1\S*: expected .* RandomHorizontalFlip with forward"):
        trace(hooked)
    handle.remove()
    trace(hooked)
