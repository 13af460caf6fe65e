"""A transform whose pixels come from elsewhere than it records is refused; one that only changes colours is not."""

import copy
import json
import re
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from timm.data import create_transform
from torchvision import transforms as tv
from torchvision.transforms import functional, v2
from torchvision.transforms import functional as F  # the name by which torchvision's steps call it

from tests.tokenmix_loader.tracing.traced_runs import next_draws, seed_all
from tokenmix_loader import UntraceableTransform, trace
from tokenmix_loader.tracing.pattern import Pattern, match
from tokenmix_loader.tracing.self_test import COLOURS, SIZES

FINISH = [tv.ToTensor(), tv.Normalize([0.5] * 3, [0.2] * 3)]
MOVES: dict[str, Callable[[Any], Any]] = {
    "mirrored": functional.hflip,
    "transposed": lambda image: image.transpose(5),
    "turned a little": lambda image: functional.rotate(image, 7),
    "cut": lambda image: image.resize(image.size, box=(20, 0, *image.size)),
    "shifted": lambda image: functional.affine(image, 0, [12, 0], 1, [0.0]),
    "waved": lambda image: functional.elastic_transform(image, 30 * torch.sin(_grid(image) * 9) / 100),
}


SHOWN: dict[str, list[list[float]]] = {  # by the step alone, on the first test image
    "mirrored": [[-1, 0, 1], [0, 1, 0]],
    "transposed": [[0, 1, 0], [1, 0, 0]],
    "cut": [[280 / 300, 0, 20 / 300], [0, 1, 0]],
    "shifted": [[1, 0, -12 / 300], [0, 1, 0]],
}


def _grid(image: Any) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(0, 1, image.height), torch.linspace(0, 1, image.width), indexing="ij")
    return torch.stack((y, x), dim=-1)[None]


def patched(step: Any, move: Callable[[Any], Any], p: float = 1.0) -> Any:
    """A known step that does something else as well."""
    plain = type(step).forward

    def forward(self: Any, image: Any) -> Any:
        result = plain(self, image)
        return move(result) if torch.rand(()) < p else result

    step.forward = types.MethodType(forward, step)
    return step


@pytest.mark.parametrize("move", MOVES)
def test_a_step_that_moves_pixels_in_silence_is_refused_by_name(move: str) -> None:
    steps = [tv.Resize((96, 96)), tv.RandomHorizontalFlip(), patched(tv.ColorJitter(0.3, 0.3), MOVES[move]), *FINISH]
    with pytest.raises(UntraceableTransform) as error:
        trace(tv.Compose(steps))
    message = str(error.value)
    assert message.startswith("transform.transforms[2]: expected torchvision.transforms.transforms.ColorJitter (torchv")
    assert f"torchvision {torchvision.__version__}) to take pixels from where it records" in message
    assert "the affine [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], found" in message
    shown = re.search(r"found (\[\[.*\]\]) in draw", message)
    assert (shown is None) == (move == "waved")
    if shown and move in SHOWN:
        np.testing.assert_allclose(json.loads(shown[1]), SHOWN[move], atol=0.02)


def test_one_image_in_four_is_enough() -> None:
    with pytest.raises(UntraceableTransform, match=r"transforms\[1\].*ColorJitter"):
        trace(tv.Compose([tv.Resize((96, 96)), patched(tv.ColorJitter(0.3), functional.vflip, 0.25), *FINISH]))


@pytest.mark.parametrize("kind", [tv.RandomHorizontalFlip, v2.RandomVerticalFlip, tv.RandomResizedCrop, v2.RandomCrop])
def test_a_version_in_which_a_step_does_something_else_is_refused(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, image: functional.rotate(plain(self, image), 180))
    with pytest.raises(UntraceableTransform, match=kind.__name__):
        trace(tv.Compose([kind(64) if "Crop" in kind.__name__ else kind(), *FINISH]))


HARD_COLOURS: dict[str, Callable[[], Any]] = {
    "timm's, all of it": lambda: create_transform(
        96, is_training=True, auto_augment="rand-m9-mstd0.5-inc1", re_prob=0.5, re_mode="pixel", re_count=3
    ),
    "timm's original": lambda: create_transform(96, is_training=True, auto_augment="original", re_prob=0.25),
    "timm's 3-Augment": lambda: create_transform(96, is_training=True, auto_augment="3a", color_jitter=0.3),
    "timm's, of CIFAR's size": lambda: create_transform(32, is_training=True, auto_augment="rand-m9", re_prob=1.0),
    "equalized, then solarized": lambda: tv.Compose([tv.RandomEqualize(1.0), tv.RandomSolarize(128, 1.0)]),
    "two shades": lambda: tv.RandomPosterize(1, 1.0),
    "erased": lambda: tv.Compose([*FINISH, *[tv.RandomErasing(1.0, (0.2, 0.33), value="random")] * 2]),
    "blurred and grey": lambda: tv.Compose([tv.GaussianBlur(23, (4, 5)), tv.Grayscale(), tv.RandomInvert(1.0)]),
    "JPEG": lambda: v2.JPEG((2, 5)),
    "eight pixels": lambda: tv.Resize((8, 8)),
    "eight pixels of many": lambda: tv.CenterCrop(8),
    "more than the test images": lambda: tv.RandomCrop(400),
}  # fmt: skip


@pytest.mark.parametrize("name", HARD_COLOURS)
def test_what_only_changes_colours_passes(name: str) -> None:
    trace(HARD_COLOURS[name]())


def test_random_streams_and_the_transform_are_left_alone() -> None:
    transform = create_transform(32, is_training=True, auto_augment="rand-m9-mstd0.5-inc1", re_prob=0.5)
    before = [copy.copy(vars(step)) for step in transform.transforms]
    seed_all(3)
    expected = next_draws()
    seed_all(3)
    trace(transform)
    assert next_draws() == expected
    assert [vars(step) for step in transform.transforms] == before


def test_random_streams_are_left_alone_when_it_is_refused() -> None:
    seed_all(3)
    expected = next_draws()
    seed_all(3)
    with pytest.raises(UntraceableTransform):
        trace(patched(tv.ColorJitter(0.3), functional.hflip))
    assert next_draws() == expected


def test_a_transform_that_fails_on_every_image_is_refused() -> None:
    with pytest.raises(
        UntraceableTransform, match=r"found ValueError for one of about 1200x880 px: Required crop size"
    ) as error:
        trace(tv.RandomCrop(5000))
    assert isinstance(error.value.__cause__, ValueError)


def test_a_transform_that_mostly_fails_is_refused() -> None:
    with pytest.raises(UntraceableTransform, match="found ZeroDivisionError for one of about 300x220 px"):
        trace(patched(tv.ColorJitter(0.3), lambda image: image if image.width == 300 else 1 // 0))
    trace(patched(tv.ColorJitter(0.3), lambda image: image if image.width != 300 else 1 // 0, 0.3))


def pad_in_vain(_: Any, image: Any) -> Any:
    F.pad(image, [900])
    return image


def test_what_is_recorded_to_be_out_of_sight_and_is_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tv.Pad, "forward", pad_in_vain)
    with pytest.raises(UntraceableTransform, match=r"Pad.* found \[\[1.0, 0.0, 0.0\], \[0.0, 1.0, 0.0\]\]"):
        trace(tv.Pad(900))


def test_a_transform_that_cannot_be_copied_is_refused() -> None:
    jitter = tv.ColorJitter(0.3)
    jitter.source = (number for number in range(3))
    with pytest.raises(
        UntraceableTransform, match="expected one that can be copied, for a test of it, found TypeError"
    ):
        trace(jitter)


@pytest.mark.parametrize("colours", range(len(COLOURS)))
def test_the_pattern_is_found_at_its_place_only(colours: int) -> None:
    """What the limits of the test are made from."""
    width, height = SIZES[0]
    pattern = Pattern(width, height, 0)
    image = pattern.image(COLOURS[colours])
    place = np.array([1.0, 0, 0, 0, 1, 0, 0, 0, 1, 1])
    right = match(image, place, pattern)
    assert right is not None
    assert right.here == right.anywhere > 12
    assert right.off_px < 0.5
    shifted = match(image, place + np.array([0, 0, 0.01, 0, 0, 0, 0, 0, 0, 0]), pattern)
    assert shifted is not None
    assert shifted.off_px == pytest.approx(3, abs=1.5)
    for wrong in (functional.hflip(image), functional.vflip(image), functional.rotate(image, 12)):
        found = match(wrong, place, pattern)
        assert found is not None
        assert found.here < 5.5
    assert match(image.point(lambda _: 7), place, pattern) is None
