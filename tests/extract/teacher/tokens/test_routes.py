"""Token logits against an independent reading: the pooling layer's input, and what the model makes of it."""

from typing import Any

import numpy as np
import pytest
import timm
import torch

from extract.teacher.tokens.reading_order import check_reading_order, probe_images
from extract.teacher.tokens.routes import Refusal, Route, choose_route
from extract.teacher.tokens.token_sources import HeadSource, TokenLayout
from tests.extract.teacher.models import SIZE, shaken

FAMILIES = {
    "test_resnet": "affine",
    "lcnetv2_small": "linearised",
    "test_nfnet": "affine",
    "regnetx_002": "affine",
    "test_efficientnet": "affine",
    "test_byobnet": "affine",
    "dla46x_c": "affine",
    "dpn48b": "affine",
    "fastvit_t8": "affine",
    "repghostnet_050": "linearised",
    "ghostnet_050": "linearised",
    "mobilenetv3_small_050": "linearised",
    "hardcorenas_a": "linearised",
    "hgnetv2_b0": "linearised",
    "test_convnext": "linearised",
    "edgenext_xx_small": "linearised",
    "inception_next_atto": "linearised",
    "efficientvit_b0": "linearised",
    "mobilevit_xxs": "affine",
    "rexnet_100": "affine",
}
HEAVY = ("dpn48b", "fastvit_t8", "repghostnet_050", "ghostnet_050", "hardcorenas_a", "lcnetv2_small", "hgnetv2_b0",
         "efficientvit_b0", "rexnet_100")  # fmt: skip


def logits_by_hooks(
    model: torch.nn.Module, image: torch.Tensor, step: float = 1e-7
) -> tuple[torch.Tensor, torch.Tensor]:
    """[h, w, K] in float64: the rest of the model, at the mean token and along the way to each token; and [K]."""
    model.double()
    pool = [module for module in model.modules() if type(module).__name__ == "SelectAdaptivePool2d"][-1]
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    handle = pool.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    logits = model(image.double())
    handle.remove()
    (features, pooled), flat = seen[0], seen[0][1].flatten()
    channels = len(flat)
    grid = features[0] if features.shape[1] == channels else features[0].permute(2, 0, 1)
    away = grid.flatten(1).T - flat

    def rest(vectors: torch.Tensor) -> torch.Tensor:
        handle = pool.register_forward_hook(lambda *_: vectors.view(-1, *pooled.shape[1:]))
        try:
            result: torch.Tensor = model(image.double())
        finally:
            handle.remove()
        return result

    slope = (rest(flat + step * away) - rest(flat - step * away)) / (2 * step)
    return (logits + slope).view(*grid.shape[1:], -1), logits[0]


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in HEAVY else n for n in FAMILIES])
@torch.no_grad()
def test_twenty_families_against_hooks(name: str) -> None:
    model = shaken(name)
    image = torch.randn(1, 3, SIZE, SIZE)
    route = choose_route(model, (SIZE, SIZE))
    assert isinstance(route, Route), route
    assert route.form == FAMILIES[name]
    tokens = route.tokens(image)
    every = route.all_logits(tokens)[0]
    found, image_logits = route.output_logits(tokens, torch.tensor([7]))
    expected, output = logits_by_hooks(model, image)
    scale = expected.abs().max()
    assert (every - expected).abs().max() < 1e-4 * scale
    assert (found[0] - expected[..., 7]).abs().max() < 1e-4 * scale
    assert (image_logits[0] - output).abs().max() < 1e-4 * scale
    assert every.std((0, 1)).min() > 1e-4 * scale, "an empty check: all tokens alike"


@pytest.mark.parametrize(
    ("name", "args", "head"),
    [("vgg11", {"mlp_ratio": 0.01}, "pre_logits"), ("test_resnet", {"global_pool": "avgmax"}, "global_pool")],
)
@torch.no_grad()
def test_heads_of_whole_maps_by_finite_differences(name: str, args: dict[str, Any], head: str) -> None:
    """What a token contributes to the label's logit: its change as this token alone is scaled, in front of the head."""
    model = shaken(name, **args)
    image = torch.randn(1, 3, SIZE, SIZE)
    route = choose_route(model, (SIZE, SIZE))
    assert isinstance(route, Route), route
    assert (route.form, route.grid) == ("gradient", (3, 3))
    found, logits = route.output_logits(route.tokens(image), torch.tensor([7]))
    model.double()
    scale = torch.ones(3, 3, dtype=torch.float64)
    handle = model.get_submodule(head).register_forward_pre_hook(lambda _, inputs: (inputs[0] * scale,))
    share = torch.zeros(3, 3, dtype=torch.float64)
    for place in np.ndindex(3, 3):
        for sign in (1, -1):
            scale[place] = 1 + sign * 1e-6
            share[place] += sign * model(image.double())[0, 7] / 2e-6
        scale[place] = 1
    handle.remove()
    share *= 9
    expected = share - share.mean() + model(image.double())[0, 7]
    torch.testing.assert_close(found[0].double(), expected, rtol=1e-4, atol=1e-4 * float(share.abs().max()))
    assert abs(found.mean() - logits[0, 7]) < 1e-5 * found.abs().max()
    assert found.std() > 1e-2 * found.abs().max(), "an empty check: all tokens alike"


def test_a_convolution_without_padding_before_the_pooling_does_not_shrink_the_grid() -> None:
    """At 256 px VGG pools 2 x 2 places, which are the middle of its 8 x 8 tokens."""
    model = timm.create_model("vgg11", num_classes=10, mlp_ratio=0.01).eval()
    route = choose_route(model, (256, 256))
    assert isinstance(route, Route), route
    assert route.grid == (8, 8)


class Turned(torch.nn.Module):
    """A right model whose features lie wrong, though their mean is as it was."""

    def __init__(self, model: Any, turn: str):
        super().__init__()
        self.model, self.turn = model, turn

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.model.forward_features(images)
        height, width = features.shape[2:]
        order = torch.arange(height * width).view(height, width)
        turned = {
            "right": order,
            "transposed": order.T,
            "mirrored": order.flip(1),
            "upside down": order.flip(0),
            "rotated": order.rot90(),
            "shuffled": order.flatten()[torch.randperm(height * width, generator=torch.Generator().manual_seed(1))],
        }[self.turn]
        tokens = features.flatten(2)[:, :, turned.flatten()]
        if self.turn == "shuffled":  # only a sequence can be: a map of a convolution has an order
            return tokens.transpose(1, 2)
        return tokens.view_as(features)

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        if features.ndim == 3:
            features = features.transpose(1, 2)[..., None]
        logits: torch.Tensor = self.model.forward_head(features)
        return logits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(images))


@pytest.mark.parametrize("turn", ["transposed", "mirrored", "upside down", "rotated", "shuffled"])
def test_a_grid_in_another_order_is_refused(turn: str) -> None:
    model = Turned(shaken("test_resnet"), turn)
    refusal = choose_route(model, (192, 192))
    assert isinstance(refusal, Refusal)
    assert refusal.expected == "tokens in reading order"


def test_the_right_grid_is_accepted() -> None:
    route = choose_route(Turned(shaken("test_resnet"), "right"), (192, 192))
    assert isinstance(route, Route)
    assert route.locality > 0.9


@pytest.mark.parametrize(
    ("name", "size", "layout", "grid"),
    [
        ("test_vit4", (160, 160), "NLC", (10, 10)),
        ("gmixer_12_224", (224, 224), "NLC", (14, 14)),
        ("test_mambaout", (64, 128), "NHWC", (2, 4)),
        ("test_resnet", (128, 64), "NCHW", (4, 2)),
    ],
)
def test_layouts(name: str, size: tuple[int, int], layout: str, grid: tuple[int, int]) -> None:
    if name == "test_vit4":
        model = timm.create_model("test_vit", img_size=size, global_pool="avg", reg_tokens=3)
    else:
        model = timm.create_model(name)
    torch.nn.init.normal_(model.get_classifier().weight)
    route = choose_route(model.eval(), size)
    assert isinstance(route, Route), route
    assert (route.source.layout.name, route.grid) == (layout, grid)


def test_a_class_token_only_when_asked_for() -> None:
    model = shaken_vit()
    assert isinstance(choose_route(model, (160, 160)), Refusal)
    route = choose_route(model, (160, 160), class_token=True)
    assert isinstance(route, Route)
    assert str(route).endswith("surrogate")
    image = torch.randn(1, 3, 160, 160)
    features = model.forward_features(image)  # type: ignore[operator]
    expected = model.head(features[:, 1:]).view(1, 10, 10, 10)  # type: ignore[operator]
    torch.testing.assert_close(route.all_logits(route.tokens(image)), expected)


def shaken_vit() -> torch.nn.Module:
    torch.manual_seed(0)
    model: torch.nn.Module = timm.create_model("test_vit", num_classes=10).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim <= 1:
            parameter.add_(torch.rand_like(parameter) * 0.6 - 0.3)
    return model


def test_a_head_that_is_all_zero_proves_nothing() -> None:
    model: Any = timm.create_model("test_resnet").eval()
    torch.nn.init.zeros_(model.fc.weight)
    torch.nn.init.zeros_(model.fc.bias)
    refusal = choose_route(model, (64, 64))
    assert isinstance(refusal, Refusal)
    assert "only zeros" in refusal.found


def test_order_of_a_grid_without_columns() -> None:
    source = HeadSource(timm.create_model("test_resnet").eval(), TokenLayout("NCHW", (3, 1)))
    with torch.no_grad():
        assert check_reading_order(source, (96, 32), source.tokens(probe_images((96, 32), flat=False))).problem == ""
