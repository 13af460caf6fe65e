"""Where tokens look: networks whose centres follow from strides and padding, and tokens made up for the purpose."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch

from extract.settings import TeacherSpec
from extract.teacher.preprocess import Preprocessing
from extract.teacher.timm_teacher import TimmTeacher
from extract.teacher.tokens.centres import PARTS, WHOLE, TokenView, measure_token_view, mirrored_mean, view_at_size
from extract.teacher.tokens.routes import Route, choose_route
from tests.extract.teacher.models import shaken

SMALL_SWIN = {"depths": (1, 1, 1, 1), "embed_dim": 24, "num_heads": (1, 2, 4, 8)}


def measured(model: torch.nn.Module, size: tuple[int, int]) -> tuple[TokenView, tuple[int, int]]:
    route = choose_route(model.eval().requires_grad_(False), size)
    assert isinstance(route, Route)
    return measure_token_view(route.tokens, route.grid, size), route.grid


def random_model(name: str, **args: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    model: torch.nn.Module = timm.create_model(name, num_classes=10, **args)
    return model


@pytest.mark.parametrize("make", [random_model, shaken])
@pytest.mark.parametrize("size", [(224, 224), (200, 200), (160, 224)])
def test_a_resnet_18_looks_to_the_upper_left(make: Callable[..., torch.nn.Module], size: tuple[int, int]) -> None:
    """Stem, pooling and strides look about pixel 32 i; with the branches at zero only the shortcuts do so."""
    view, (h, w) = measured(make("resnet18"), size)
    assert view.problem == ""
    edges = np.array(view.rectangle) * np.array([size[1], size[0]] * 2)
    expected = np.array([-15.5, -15.5, 32 * w - 15.5, 32 * h - 15.5])
    assert np.abs(edges - expected).max() < 0.05 * 32


@pytest.mark.parametrize("model", ["resnet18", "test_efficientnet"])
def test_centres_at_another_size_follow_from_those_at_one(model: str) -> None:
    """Shifts by strides and padding are so many pixels, not so much of a side."""
    network = random_model(model)
    (one, small), (two, large) = (measured(network, size) for size in ((160, 160), (224, 192)))
    found = np.array(view_at_size(one, small, (160, 160), large, (224, 192))) - two.rectangle
    assert np.abs(found * np.array([large[1], large[0]] * 2)).max() < 0.07  # of a token
    assert one.rectangle != WHOLE


def test_padding_at_the_end_lies_outside_of_the_input() -> None:
    view, grid = measured(random_model("test_vit2", dynamic_img_size=True, dynamic_img_pad=True), (200, 200))
    assert grid == (13, 13)
    np.testing.assert_allclose(view.rectangle, (0, 0, 208 / 200, 208 / 200), atol=1 / PARTS / 13)
    assert view.problem == ""


@pytest.mark.parametrize(
    ("name", "args", "side"),
    [("test_vit2", {}, 160), ("swin_tiny_patch4_window7_224", SMALL_SWIN, 224), ("convnext_atto", {}, 224)],
)
def test_patches_that_tile_the_input_stay_exactly_there(name: str, args: dict[str, Any], side: int) -> None:
    assert measured(random_model(name, **args), (side, side))[0] == (WHOLE, "")


def sampled(down: np.ndarray[Any, Any], across: np.ndarray[Any, Any], images: torch.Tensor) -> torch.Tensor:
    """Tokens [B, h, w, C] that are Gaussian means of the image about these places, in px."""
    rows, columns = (
        torch.exp(-((torch.arange(side) + 0.5 - torch.from_numpy(at).float()[:, None]) ** 2) / 2 / 6.0**2)
        for side, at in zip(images.shape[2:], (down, across), strict=True)
    )
    return torch.einsum("bcyx,iy,jx->bijc", images, rows, columns)


@pytest.mark.parametrize("shift", [(-0.4, 0.3), (0.11, -0.2)])
def test_even_centres_are_found_wherever_they_are(shift: tuple[float, float]) -> None:
    down, across = ((np.arange(n) + 0.5 + by) * 16 for n, by in zip((8, 6), shift, strict=True))
    view = measure_token_view(lambda images: sampled(down, across, images), (8, 6), (128, 96))
    found = np.array(view.rectangle) * [6, 8, 6, 8]
    np.testing.assert_allclose(found, [shift[1], shift[0], 6 + shift[1], 8 + shift[0]], atol=0.02)


def test_uneven_centres_are_reported_and_not_guessed() -> None:
    places = np.arange(8) + 0.5
    at = (places + 0.3 * np.cos(places * np.pi / 2)) * 16
    rectangle, problem = measure_token_view(lambda images: sampled(at, at, images), (8, 8), (128, 128))
    assert rectangle == WHOLE
    assert "uneven by 0." in problem or "of a token only" in problem


def test_tokens_without_gradients_are_reported() -> None:
    rectangle, problem = measure_token_view(lambda images: images.detach().permute(0, 2, 3, 1), (8, 8), (8, 8))
    assert (rectangle, "gradients cannot be computed" in problem) == (WHOLE, True)


def test_a_problem_is_said_and_recorded(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(
        "extract.teacher.kinds.from_tokens.measure_token_view", lambda *_: TokenView(WHOLE, "they are uneven")
    )
    teacher = TimmTeacher(TeacherSpec("test_resnet", random_weights=0, input_size=(64, 64)))
    assert teacher.header()["token_centres"] == "assumed even"
    assert "token_view" not in teacher.preprocessing.header()
    assert "--teacher test_resnet: expected tokens that lie evenly on its input, but they are uneven" in caplog.text


def test_the_mean_with_the_mirror_image_is_centred() -> None:
    np.testing.assert_allclose(mirrored_mean((-0.1, 0.2, 0.9, 1.2)), (0, 0.2, 1, 1.2))
    np.testing.assert_allclose(mirrored_mean((0, 0, 1.04, 1.04)), (-0.02, 0, 1.02, 1.04))


def test_the_view_is_the_tokens_part_of_the_crop_and_round_trips() -> None:
    token_view = (-0.25, 0.125, 0.75, 1.125)
    colours: dict[str, Any] = dict(interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    plain = Preprocessing((96, 96), "center", 1.0, **colours)
    shifted = Preprocessing((96, 96), "center", 1.0, **colours, token_view=token_view)
    x0, y0, x1, y1 = plain.view(200, 100)
    w, h = x1 - x0, y1 - y0
    expected = (x0 - 0.25 * w, y0 + 0.125 * h, x0 + 0.75 * w, y0 + 1.125 * h)
    np.testing.assert_allclose(shifted.view(200, 100), expected, atol=1e-12)
    made: dict[str, Any] = shifted.header()
    assert made["token_view"] == list(token_view)
    assert Preprocessing(**made).view(200, 100) == shifted.view(200, 100)
    assert "token_view" not in plain.header()
