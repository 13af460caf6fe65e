"""Token logits against an independent reading: the pooling layer's input, and what the model makes of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn.modules.batchnorm import _BatchNorm

from extract.errors import TeacherError
from extract.images import list_images
from extract.job import JobOptions, run_job
from extract.order import order_fault, probe_images
from extract.routes import Refusal, Route, choose_route
from extract.teacher import Teacher, TeacherSpec
from extract.tokens import HeadSource, Layout
from store import MapStore, verify
from tests.extract.conftest import MakeFolder

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
SIZE = 96
HEAVY = ("dpn48b", "fastvit_t8", "repghostnet_050", "ghostnet_050", "hardcorenas_a", "lcnetv2_small", "hgnetv2_b0",
         "efficientvit_b0", "rexnet_100")  # fmt: skip


def shaken(name: str) -> torch.nn.Module:
    """A model whose norms and biases are random, so that no identity holds by a zero, and whose signal survives."""
    torch.manual_seed(0)
    model: torch.nn.Module = timm.create_model(name, num_classes=10)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim <= 1:
                parameter.add_(torch.rand_like(parameter) * 0.6 - 0.3)
        for norm in (module for module in model.modules() if isinstance(module, _BatchNorm)):
            norm.momentum = None
        model.train()(torch.randn(4, 3, SIZE, SIZE))
    return model.eval()


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
    found, image_logits = route.label_logits(tokens, torch.tensor([7]))
    expected, output = logits_by_hooks(model, image)
    scale = expected.abs().max()
    assert (every - expected).abs().max() < 1e-4 * scale
    assert (found[0] - expected[..., 7]).abs().max() < 1e-4 * scale
    assert (image_logits[0] - output).abs().max() < 1e-4 * scale
    assert every.std((0, 1)).min() > 1e-4 * scale, "an empty check: all tokens alike"


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
    assert "inf" in refusal.found


def test_order_of_a_grid_without_columns() -> None:
    source = HeadSource(timm.create_model("test_resnet").eval(), Layout("NCHW", (3, 1)))
    with torch.no_grad():
        assert order_fault(source, (96, 32), source.tokens(probe_images((96, 32), flat=False)))[0] == ""


SPEC: dict[str, Any] = dict(num_classes=10, input_size=(64, 64), random_weights=0)


def test_what_a_refused_user_is_told_fits() -> None:
    from extract.teacher import FITTING

    for name in FITTING:
        assert timm.is_model(name), name


def test_topk_of_all_classes_is_the_whole_distribution(tmp_path: Path) -> None:
    save_file(shaken("test_convnext").state_dict(), tmp_path / "w.safetensors")
    spec: dict[str, Any] = dict(checkpoint=tmp_path / "w.safetensors", num_classes=10, input_size=(64, 64))
    pixels = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    labels = torch.tensor([0, 4, 9])
    top = Teacher(TeacherSpec("test_convnext", kind="topk", top_k=10, **spec)).maps(pixels, labels)
    label = Teacher(TeacherSpec("test_convnext", **spec)).maps(pixels, labels)
    logits, classes, total = (top.payload[name] for name in ("topk_logit", "topk_class", "logsumexp"))
    probability = (logits - total[:, None]).exp()
    torch.testing.assert_close(probability.sum(1), torch.ones(3, 2, 2))
    at_label = torch.where(classes == labels[:, None, None, None], logits, 0).sum(1)
    torch.testing.assert_close(at_label, label.payload["label_logit"], rtol=1e-4, atol=1e-5)
    assert (logits.diff(dim=1) <= 0).all()
    assert torch.equal(top.prediction, label.prediction)


@pytest.mark.parametrize("kind", ["label", "activation", "cam", "topk"])
def test_flip_average_commutes_with_the_mirror(kind: str) -> None:
    teacher = Teacher(TeacherSpec("test_resnet", kind=kind, flip_average=True, **SPEC))
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    labels = torch.tensor([1, 2])
    one, two = teacher.maps(pixels, labels), teacher.maps(pixels.flip(3), labels)
    for name, maps in one.payload.items():
        if name != "topk_class":
            torch.testing.assert_close(maps, two.payload[name].flip(-1))


def test_activation_is_the_norm_of_the_features() -> None:
    teacher = Teacher(TeacherSpec("test_resnet", kind="activation", **SPEC))
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    features = teacher.model.forward_features(teacher.normalise(pixels))  # type: ignore[operator]
    maps = teacher.maps(pixels, torch.zeros(2, dtype=torch.int64))
    torch.testing.assert_close(maps.payload["activation"], features.square().sum(1).sqrt())


def test_cam_by_finite_differences() -> None:
    """The gradient at single activations of the stage, by changing them."""
    teacher = Teacher(TeacherSpec("test_resnet", kind="cam", **SPEC))
    assert teacher.header()["route"] == "LayerCAM at layer3, NCHW"
    pixels = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    cam = teacher.maps(pixels, torch.tensor([3])).payload["label_cam"][0]
    model: Any = teacher.model.double()
    image = teacher.normalise(pixels).double()
    seen: list[torch.Tensor] = []
    handle = model.layer3.register_forward_hook(lambda *args: seen.append(args[2]))
    with torch.no_grad():
        model(image)
        handle.remove()
        stage, step = seen[0], 1e-5
        expected = torch.zeros(stage.shape[1])
        for channel in range(stage.shape[1]):
            moved = stage.repeat(2, 1, 1, 1)
            moved[0, channel, 1, 2] += step
            moved[1, channel, 1, 2] -= step
            handle = model.layer3.register_forward_hook(lambda *_, moved=moved: moved)
            up, down = model(image)[:, 3]
            handle.remove()
            expected[channel] = ((up - down) / (2 * step)).relu() * stage[0, channel, 1, 2].relu()
    torch.testing.assert_close(cam[1, 2], expected.sum() * cam.numel(), rtol=1e-3, atol=1e-6)
    assert cam.shape == teacher.grid == (4, 4)


def test_label_maps_from_features_are_those_extracted(make_folder: MakeFolder, tmp_path: Path) -> None:
    images = list_images(make_folder({"a": ["1.jpg", "2.jpg"], "b": ["3.jpg"]}))
    for kind in ("label", "features"):
        spec = TeacherSpec("test_resnet", kind=kind, num_classes=2, input_size=(64, 64), random_weights=0)
        run_job(images, tmp_path / kind, Teacher(spec), JobOptions(dtype="float32", workers=0))
        assert verify(tmp_path / kind).ok
    direct, derived = (MapStore(tmp_path / kind).read(range(3)) for kind in ("label", "features"))
    np.testing.assert_allclose(derived, direct, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "asked", "why"),
    [
        ("test_convnext", {"kind": "features"}, "affine after average pooling, found .*linearised; use --kind label"),
        ("test_resnet", {"kind": "topk", "top_k": 11}, "--top-k 11: expected at most the teacher's 10 classes"),
        ("test_resnet", {"kind": "cam", "cam_stage": "layer9"}, "--cam-stage layer9: .*such as conv1"),
        ("test_resnet", {"kind": "cam", "cam_stage": "fc"}, "--cam-stage fc: expected a map of tokens"),
        ("efficientvit_b0", {"compile": True}, "--compile: expected tokens from forward_features, found input of"),
    ],
)
def test_kinds_that_a_teacher_cannot_give(name: str, asked: dict[str, Any], why: str) -> None:
    with pytest.raises(TeacherError, match=why):
        Teacher(TeacherSpec(name, **SPEC, **asked))


def test_a_class_token_teacher_has_cams() -> None:
    teacher = Teacher(TeacherSpec("test_vit", kind="cam", num_classes=10, random_weights=0))
    assert teacher.header()["route"] == "LayerCAM at blocks.4, NLC after 1 prefix tokens"
    maps = teacher.maps(torch.randint(0, 256, (2, 3, 160, 160), dtype=torch.uint8), torch.tensor([1, 2]))
    assert maps.payload["label_cam"].shape == (2, *teacher.grid) == (2, 10, 10)
    assert (maps.payload["label_cam"] >= 0).all()
    assert maps.payload["label_cam"].std() > 0
