"""Every transform of torchvision, timm and the installed Albumentations is either refused by name, or right.

Classes are found in the modules, so a new version's new classes and changed ones are tested without a line here. What
pixels show is measured on ramps (`shades`) too, independently of the pattern by which `trace` itself tests.
"""

import importlib
import inspect
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from timm.data import auto_augment as timm_aa
from torchvision import transforms as tv
from torchvision.transforms import v2

from tests.tokenmix_loader.tracing.traced_runs import seed_all
from tokenmix_loader import UntraceableTransform, trace
from tokenmix_loader.tracing.pattern import Pattern, match
from tokenmix_loader.tracing.self_test import COLOURS, OFF_SHARE, RIGHT
from tokenmix_loader.tracing.shades import affine_of, draw_shades
from tokenmix_loader.tracing.trace import RECORDERS, TracedTransform

MODULES = {
    "v1": "torchvision.transforms",
    "v2": "torchvision.transforms.v2",
    "timm": "timm.data.transforms",
    "timm policies": "timm.data.auto_augment",
    "timm erasing": "timm.data.random_erasing",
    "Albumentations": "albumentations",
}
# What a class is made with: the first of these that it takes, or what stands under its name.
ARGUMENTS: tuple[tuple[Any, ...], ...] = (
    (), (64,), ((64, 64),), (20,), (60, 90), ([0.5] * 3, [0.2] * 3), ([tv.RandomHorizontalFlip(1.0), tv.Resize(80)],),
)  # fmt: skip
KEYWORDS: tuple[dict[str, Any], ...] = ({"p": 1.0}, {"probability": 1.0, "device": "cpu"}, {})
SPECIAL: dict[str, Callable[[Any], Any]] = {
    "torchvision.RandomCrop": lambda kind: kind(120, padding=8),
    "torchvision.RandomRotation": lambda kind: kind(25),
    "torchvision.RandomAffine": lambda kind: kind(20, (0.1, 0.1), (0.8, 1.2), (-8, 8)),
    "torchvision.ColorJitter": lambda kind: kind(0.3, 0.3, 0.3),
    "torchvision.Grayscale": lambda kind: kind(3),
    "timm.TrimBorder": lambda kind: kind(20),
    "timm.RandAugment": lambda _: timm_aa.rand_augment_transform("rand-m9-mstd0.5-inc1", {}),
    "timm.AutoAugment": lambda _: timm_aa.auto_augment_transform("original", {}),
    "albumentations.Crop": lambda kind: kind(10, 20, 150, 140, p=1.0),
    "albumentations.CenterCrop": lambda kind: kind(190, 220, pad_if_needed=True, p=1.0),
    "albumentations.PadIfNeeded": lambda kind: kind(230, 270, p=1.0),
    "albumentations.CropAndPad": lambda kind: kind(px=(-20, 20), p=1.0),
    **dict.fromkeys(
        (f"torchvision.{name}" for name in ("Compose", "RandomApply", "RandomChoice", "RandomOrder")),
        lambda kind: kind([tv.RandomHorizontalFlip(1.0), tv.Resize(80)]),
    ),
}
SIZES = ((240, 180), (200, 200))


def classes() -> list[tuple[str, Any]]:
    """Where they are, and those of each module that look like transforms."""
    found = []
    for where, name in MODULES.items():
        if find_spec(name.partition(".")[0]) is None:
            continue
        for kind in vars(importlib.import_module(name)).values():
            if inspect.isclass(kind) and _package(kind) == name.partition(".")[0] and not inspect.isabstract(kind):
                found += [(where, kind)] if "__call__" in dir(kind) and kind.__name__[0] != "_" else []
    return found


def _package(kind: Any) -> str:
    return str(kind.__module__).partition(".")[0]


EVERY = classes()


def made(kind: Any) -> Any | None:
    """A transform of this class; None where it needs other arguments."""
    named = SPECIAL.get(f"{_package(kind)}.{kind.__name__}")
    if named is not None:
        return named(kind)
    for keywords in KEYWORDS:
        for arguments in ARGUMENTS:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    return kind(*arguments, **keywords)
                except Exception:
                    continue
    return None


def off_px(transform: Any, size: tuple[int, int], seed: int) -> list[float]:
    """How far the recorded affine is from what is shown, by up to two measures, in px; none where colours hide it."""
    traced = TracedTransform(transform)

    def run(image: Any) -> Any:
        seed_all(seed)
        traced.reseed(seed)
        return traced.placed(image)

    pattern = Pattern(*size, 5)
    result, place = run(pattern.image(COLOURS[2]))
    found = match(result, place, pattern)
    off = [found.off_px] if found is not None and found.here > RIGHT else []
    if type(transform) in RECORDERS and "Augment" not in type(transform).__name__:  # policies change colours too
        shown = affine_of([run(image)[0] for image in draw_shades(*size)])
        assert shown is not None
        middle = np.array([[0.2, 0.2, 1], [0.8, 0.2, 1], [0.5, 0.5, 1], [0.2, 0.8, 1], [0.8, 0.8, 1]]).T
        wrong = (place[:6].reshape(2, 3) - np.reshape(shown, (2, 3))) @ middle
        off.append(float(np.abs(wrong * np.reshape(size, (2, 1))).max()))
    return off


def measured(transform: Any) -> list[float]:
    return [off for size in SIZES for seed in range(4) for off in off_px(transform, size, seed)]


@pytest.mark.parametrize(("where", "kind"), EVERY, ids=lambda value: getattr(value, "__name__", value))
def test_every_class_is_refused_by_name_or_right(where: str, kind: Any) -> None:
    transform = made(kind)
    if transform is None or not callable(transform):
        pytest.skip("it takes more than one image, or arguments that are not known here")
    refusal = None
    try:
        trace(transform)
    except UntraceableTransform as error:
        refusal = str(error)
    if refusal is not None:
        assert kind.__name__ in refusal or "expected a transform of RGB images" in refusal
        return
    limit = 1.5 if type(transform) in RECORDERS else OFF_SHARE * SIZES[0][0]  # blurs shift what is seen by some px
    assert np.median(measured(transform) or [0.0]) < limit


@pytest.mark.parametrize(
    "kind", [tv.RandomResizedCrop, v2.RandomHorizontalFlip, tv.RandomCrop, v2.Pad, tv.RandomAffine]
)
def test_what_is_known_is_measured(kind: Any) -> None:
    """Otherwise the test above would prove nothing."""
    off = measured(made(kind))
    assert len(off) == 16
    assert max(off) < 1.5


def test_classes_are_found() -> None:
    names = {kind.__name__ for _, kind in EVERY}
    assert {"RandomCrop", "RandomErasing", "RandAugment", "RandomPerspective", "ResizeKeepRatio"} <= names
    assert len(EVERY) > 100
