"""A head of one's own is exact on any backbone, and refused on another than its own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from extract.errors import TeacherError
from extract.settings import TeacherSpec
from extract.teacher.heads import (
    Backbone,
    HeadedModel,
    HeldOut,
    LinearHead,
    find_tokens,
    load_head,
    put_head,
    save_head,
)
from extract.teacher.kinds.registry import KIND_CLASSES
from extract.teacher.timm_teacher import TimmTeacher
from extract.teacher.tokens.routes import Route, choose_route
from extract.teacher.weights import weights_digest
from tests.extract.teacher.models import shaken

SIZE = (96, 96)
# A head that is affine, that has a norm or hidden layers behind the pooling, that reads the class token, that takes the
# whole map; tokens that are the input of a pooling layer, and tokens with the channels last.
BACKBONES: dict[str, dict[str, Any]] = {
    "test_resnet": {},
    "test_convnext": {},
    "mobilenetv3_small_050": {},
    "test_vit": {"img_size": 96},
    "vgg11": {"mlp_ratio": 0.02},
    "efficientvit_b0": {},
    "test_mambaout": {},
}


def head_of(model: torch.nn.Module, channels: int, classes: int = 3) -> LinearHead:
    generator = torch.Generator().manual_seed(0)
    return LinearHead(
        weight=torch.randn(classes, channels, generator=generator),
        bias=torch.randn(classes, generator=generator),
        class_names=tuple(f"c{number}" for number in range(classes)),
        backbone=Backbone("test", weights_digest(model), str(find_tokens(model, SIZE)), 10),
        images_digest="d",
        l2=0.1,
        class_weights="balanced",
        held_out=HeldOut(10, 3, 0.9, 0.8),
    )


@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_affine_and_exact_on_any_backbone(name: str) -> None:
    model = shaken(name, **BACKBONES[name])
    images = torch.randn(2, 3, *SIZE)
    tokens = find_tokens(model, SIZE).tokens(images)
    head = head_of(model, tokens.shape[3])
    headed = put_head(model, head, weights_digest(model), SIZE)
    expected = tokens.mean((1, 2)) @ head.weight.T + head.bias
    torch.testing.assert_close(headed(images), expected, rtol=1e-5, atol=1e-5)
    route = choose_route(headed, SIZE)
    assert isinstance(route, Route)
    assert route.form == "affine"
    torch.testing.assert_close(route.head()[0], head.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(route.head()[1], head.bias, rtol=1e-4, atol=1e-5)


def test_a_head_that_reads_the_class_token_leaves_the_patches() -> None:
    source = find_tokens(shaken("test_vit", img_size=96), SIZE)
    assert (source.layout.name, source.layout.prefix, source.layout.grid) == ("NLC", 1, (6, 6))


def test_stages_and_configuration_are_those_of_the_backbone() -> None:
    model = shaken("test_resnet")
    headed = put_head(model, head_of(model, 96), weights_digest(model), SIZE)
    assert headed.pretrained_cfg == model.pretrained_cfg
    assert headed.get_submodule("layer2") is model.get_submodule("layer2")
    named = dict(headed.named_modules())
    assert [named[stage["module"]] for stage in headed.feature_info] == [
        model.get_submodule(stage["module"])
        for stage in model.feature_info  # type: ignore[union-attr]
    ]
    with pytest.raises(AttributeError):
        headed.get_submodule("layer9")


def test_other_weights_and_other_features_are_refused() -> None:
    model = shaken("test_resnet")
    head = head_of(model, 96)
    with pytest.raises(TeacherError, match=f"expected one that was fitted .*found one of test .{head.backbone.digest}"):
        put_head(timm.create_model("test_resnet").eval(), head, "f00", SIZE)
    other = replace(head, backbone=replace(head.backbone, tokens="elsewhere"))
    with pytest.raises(
        TeacherError, match="fitted on the teacher's features .tokens through forward_head, NCHW.*elsewh"
    ):
        put_head(model, other, head.backbone.digest, SIZE)


def test_features_without_an_order_are_refused() -> None:
    with pytest.raises(TeacherError, match=r"expected a grid of features \[B, C, h, w\].*found none; give another"):
        find_tokens(shaken("test_resnet"), (32, 32))  # one token
    with pytest.raises(TeacherError, match="cannot run at"):
        find_tokens(shaken("test_vit", img_size=96), (50, 50))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_head(head_of(shaken("test_resnet"), 96), tmp_path / "head.safetensors")
    return tmp_path / "head.safetensors"


def test_the_file_gives_back_what_was_put_in(file: Path) -> None:
    head, loaded = head_of(shaken("test_resnet"), 96), load_head(file)
    assert loaded.header() == head.header()
    assert replace(loaded, weight=head.weight, bias=head.bias) == head
    assert torch.equal(loaded.weight, head.weight)
    assert load_file(file).keys() == {"weight", "bias"}
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]
    changed = replace(head, class_names=("c0", "c2", "c1"))
    assert changed.digest != head.digest


def test_what_is_no_head_is_refused(file: Path, tmp_path: Path) -> None:
    tensors = load_file(file)
    save_file(tensors, tmp_path / "no-metadata")
    (tmp_path / "cut").write_bytes(file.read_bytes()[:-40])
    (tmp_path / "text").write_text("no tensors")
    for name in ("no-metadata", "cut", "text", "absent"):
        with pytest.raises(TeacherError, match=f"--head .*{name}: expected a file that `tokenmix fit-head` wrote"):
            load_head(tmp_path / name)


@pytest.mark.parametrize("change", [{"class_names": ("a", "b")}, {"class_names": ("a", "b", "b")}, {"bias": "nan"}])
def test_a_head_that_contradicts_itself_is_refused(change: dict[str, Any], file: Path) -> None:
    if change.get("bias"):
        change = {"bias": torch.full((3,), torch.nan)}
    save_head(replace(load_head(file), **change), file)
    with pytest.raises(TeacherError, match="expected a file that .* wrote, found ValueError: weights"):
        load_head(file)


@pytest.mark.parametrize("kind", KIND_CLASSES)
def test_every_kind(kind: str, tmp_path: Path) -> None:
    """Maps of the new classes; of kind cam by gradients through the backbone's stages."""
    plain = TimmTeacher(TeacherSpec("test_resnet", random_weights=0, input_size=SIZE))
    head = head_of(plain.model, 96, classes=6)
    save_head(head, tmp_path / "head.safetensors")
    spec = replace(plain.spec, kind=kind, head=tmp_path / "head.safetensors")
    teacher = TimmTeacher(spec)
    assert isinstance(teacher.model, HeadedModel)
    assert (teacher.num_classes, teacher.class_names) == (6, head.class_names)
    pixels = torch.randint(256, (2, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    maps = teacher.start(pixels, torch.tensor([5, 2])).result()
    logits = teacher.model(teacher.normalise(pixels)).detach()
    assert maps.prediction.tolist() == logits.argmax(1).tolist()
    assert all(value.float().abs().sum() > 0 for value in maps.payload.values())
    if kind == "label":
        mean = maps.payload["label_logit"].mean((1, 2))
        torch.testing.assert_close(mean, logits[[0, 1], [5, 2]], rtol=1e-5, atol=1e-5)
    if kind == "features":
        weight, bias = teacher.head() or pytest.fail("no head")
        torch.testing.assert_close(
            maps.payload["features"].mean((2, 3)) @ weight.T + bias, logits, rtol=1e-4, atol=1e-5
        )
    stored: Any = teacher.header()["head"]
    assert stored["digest"] == head.digest
    assert stored["accuracy"] == {"images": 10, "classes": 3, "top1": 0.9, "balanced": 0.8}
    assert teacher.header()["digest"] == plain.digest
