"""What is stored of each kind, against its definition."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional

from extract.errors import TeacherError
from extract.images.listing import list_images
from extract.job.run import run_job
from extract.settings import JobOptions, TeacherSpec
from extract.teacher.kinds.cam import _resampled
from extract.teacher.kinds.from_tokens import SUGGESTED
from extract.teacher.kinds.spread import spread
from extract.teacher.timm_teacher import TimmTeacher
from store import MapStore, verify
from tests.extract.conftest import MakeFolder
from tests.extract.teacher.models import shaken

SPEC: dict[str, Any] = dict(num_classes=10, input_size=(64, 64), random_weights=0)


def test_what_a_refused_user_is_told_fits() -> None:
    for name in SUGGESTED:
        assert timm.is_model(name), name


def test_topk_of_all_classes_is_the_whole_distribution(tmp_path: Path) -> None:
    save_file(shaken("test_convnext").state_dict(), tmp_path / "w.safetensors")
    spec: dict[str, Any] = dict(checkpoint=tmp_path / "w.safetensors", num_classes=10, input_size=(64, 64))
    pixels = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    labels = torch.tensor([0, 4, 9])
    top = TimmTeacher(TeacherSpec("test_convnext", kind="topk", top_k=10, **spec)).start(pixels, labels).result()
    label = TimmTeacher(TeacherSpec("test_convnext", **spec)).start(pixels, labels).result()
    logits, classes, total = (top.payload[name] for name in ("topk_logit", "topk_class", "logsumexp"))
    probability = (logits - total[:, None]).exp()
    torch.testing.assert_close(probability.sum(1), torch.ones(3, 2, 2))
    at_label = torch.where(classes == labels[:, None, None, None], logits, 0).sum(1)
    torch.testing.assert_close(at_label, label.payload["label_logit"], rtol=1e-4, atol=1e-5)
    assert (logits.diff(dim=1) <= 0).all()
    assert torch.equal(top.prediction, label.prediction)


@pytest.mark.parametrize("kind", ["label", "activation", "cam", "topk"])
def test_flip_average_commutes_with_the_mirror(kind: str) -> None:
    teacher = TimmTeacher(TeacherSpec("test_resnet", kind=kind, flip_average=True, **SPEC))
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    labels = torch.tensor([1, 2])
    one, two = teacher.start(pixels, labels).result(), teacher.start(pixels.flip(3), labels).result()
    for name, maps in one.payload.items():
        if name != "topk_class":
            torch.testing.assert_close(maps, two.payload[name].flip(-1))


def test_activation_is_the_norm_of_the_features() -> None:
    teacher = TimmTeacher(TeacherSpec("test_resnet", kind="activation", **SPEC))
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    features = teacher.model.forward_features(teacher.normalise(pixels))  # type: ignore[operator]
    maps = teacher.start(pixels, torch.zeros(2, dtype=torch.int64)).result()
    torch.testing.assert_close(maps.payload["activation"], features.square().sum(1).sqrt())


def test_cam_by_finite_differences() -> None:
    """The gradient at single activations of one stage, by changing them; the largest of the map is 1."""
    teacher = TimmTeacher(TeacherSpec("test_resnet", kind="cam", cam_stage="layer3", spread=False, **SPEC))
    pixels = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    stored = teacher.start(pixels, torch.tensor([3])).result().payload["label_cam"][0]
    model: Any = teacher.model.double()
    image = teacher.normalise(pixels).double()
    seen: list[torch.Tensor] = []
    handle = model.layer3.register_forward_hook(lambda *args: seen.append(args[2]))
    with torch.no_grad():
        model(image)
        handle.remove()
        stage, step = seen[0], 1e-5
        expected = torch.zeros(stage.shape[2:])
        for channel in range(stage.shape[1]):
            moves = step * torch.eye(expected.numel(), dtype=stage.dtype).reshape(-1, *expected.shape)  # one place each
            moved = stage.repeat(2 * len(moves), 1, 1, 1)
            moved[:, channel] += torch.cat((moves, -moves))
            handle = model.layer3.register_forward_hook(lambda *_, moved=moved: moved)
            up, down = model(image)[:, 3].reshape(2, *expected.shape)
            handle.remove()
            expected += ((up - down) / (2 * step)).relu() * stage[0, channel].relu()
    rectangle = teacher._kind._stages[0].view.rectangle  # type: ignore[attr-defined]
    expected = _resampled(expected[None, None], rectangle, (4, 4))[0, 0]
    torch.testing.assert_close(stored, expected / expected.max(), rtol=1e-3, atol=1e-5)


def cam_of(name: str, pixels: torch.Tensor, **settings: Any) -> torch.Tensor:
    teacher = TimmTeacher(TeacherSpec(name, kind="cam", **(SPEC | settings)))
    return teacher.start(pixels, torch.arange(len(pixels))).result().payload["label_cam"]


def test_cam_fuses_stages_by_their_geometric_mean() -> None:
    pixels = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    options: dict[str, Any] = {"spread": False, "model_args": {"output_stride": 8}}  # so that stages have one grid
    one, two, both = (
        cam_of("test_resnet", pixels, cam_stage=stages, **options) for stages in ("layer2", "layer4", "layer2,layer4")
    )
    expected = (one * two).sqrt()
    assert one.shape == (3, 8, 8)
    torch.testing.assert_close(both, expected / expected.amax((1, 2), keepdim=True), rtol=1e-4, atol=1e-5)
    assert (both - (one + two) / 2).abs().max() > 0.1


def test_cam_at_a_scale_is_that_of_an_input_of_this_size() -> None:
    """Each place of the map over the same place of the image, although the network's shift is a fixed one in pixels."""
    pixels = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8).repeat_interleave(16, 2).repeat_interleave(16, 3)
    scaled, direct = (
        cam_of("resnet18", pixels, spread=False, **given) for given in ({"scales": (2.0,)}, {"input_size": (128, 128)})
    )
    assert scaled.shape == direct.shape == (3, 16, 16)
    torch.testing.assert_close(scaled, direct, rtol=0, atol=0.05)


def test_cam_fuses_scales_by_their_geometric_mean() -> None:
    images, outputs = torch.randn(3, 3, 128, 128), torch.arange(3)
    resized = {0.5: functional.interpolate(images, (64, 64), mode="bicubic", antialias=True), 1.0: images}

    def kind(*scales: float) -> Any:
        spec = TeacherSpec(
            "test_resnet", kind="cam", scales=scales, spread=False, **(SPEC | {"input_size": (128, 128)})
        )
        return TimmTeacher(spec)._kind

    both, alone = kind(0.5, 1.0), {scale: kind(scale) for scale in resized}
    for one in alone.values():
        one.grid = both.grid  # that of the finest stage of all
    half, whole = (one.maps(resized[s], outputs, flipped=False).payload["label_cam"] for s, one in alone.items())
    expected = (half * whole).sqrt()
    found = both.maps(images, outputs, flipped=False).payload["label_cam"]
    torch.testing.assert_close(found, expected / expected.amax((1, 2), keepdim=True), rtol=1e-3, atol=1e-5)
    assert (half - whole).abs().max() > 0.1


def test_cam_spreads_over_the_tokens_of_the_stage_that_is_named() -> None:
    pixels = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    settings: dict[str, Any] = {"cam_stage": "layer2", "model_args": {"output_stride": 8}}
    teacher = TimmTeacher(TeacherSpec("test_resnet", kind="cam", **settings, **SPEC))
    model: Any = teacher.model
    features = model.layer2(model.layer1(model.maxpool(model.act1(model.bn1(model.conv1(teacher.normalise(pixels)))))))
    features = _resampled(features, teacher._kind._stages[0].view.rectangle, (8, 8))  # type: ignore[attr-defined]
    expected = spread(cam_of("test_resnet", pixels, spread=False, **settings), [features])
    found = teacher.start(pixels, torch.arange(3)).result().payload["label_cam"]
    torch.testing.assert_close(found, expected / expected.amax((1, 2), keepdim=True))
    assert teacher.header()["route"] == "LayerCAM at layer2, NCHW, spread by layer2"


def test_cam_compares_tokens_of_16_px_and_of_blocks_that_share_a_grid_the_last() -> None:
    for name, side, stage in (("test_resnet", 64, "layer3"), ("test_vit", 160, "blocks.5")):
        header = TimmTeacher(TeacherSpec(name, kind="cam", **(SPEC | {"input_size": (side, side)}))).header()
        assert header["route"].endswith(f", spread by {stage}")  # type: ignore[union-attr]


def test_too_small_scales_are_refused_at_the_start() -> None:
    with pytest.raises(TeacherError, match=r"--scales 0\.1: expected a model that takes 6 x 6 px, found .*leave that"):
        TimmTeacher(TeacherSpec("test_resnet", kind="cam", scales=(0.1, 1.0), **SPEC))


def test_label_maps_from_features_are_those_extracted(make_folder: MakeFolder, tmp_path: Path) -> None:
    images = list_images(make_folder({"a": ["1.jpg", "2.jpg"], "b": ["3.jpg"]}))
    for kind in ("label", "features"):
        spec = TeacherSpec("test_resnet", kind=kind, num_classes=2, input_size=(64, 64), random_weights=0)
        run_job(images, tmp_path / kind, TimmTeacher(spec), JobOptions(dtype="float32", decoding_processes=0))
        assert verify(tmp_path / kind).ok
    direct, derived = (MapStore(tmp_path / kind).read(range(3)) for kind in ("label", "features"))
    np.testing.assert_allclose(derived, direct, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "asked", "why"),
    [
        ("test_resnet", {"kind": "topk", "model_args": {"global_pool": "max"}}, "a head on single tokens, .*gradient"),
        ("test_convnext", {"kind": "features"}, "affine after average pooling, found .*linearised; use --kind label"),
        ("test_resnet", {"kind": "topk", "top_k": 11}, "--top-k 11: expected at most the teacher's 10 classes"),
        ("test_resnet", {"kind": "cam", "cam_stage": "layer9"}, "--cam-stage layer9: .*such as conv1"),
        ("test_resnet", {"kind": "cam", "cam_stage": "fc"}, "--cam-stage fc: expected a map of tokens"),
        ("efficientvit_b0", {"compile": True}, "--compile: expected tokens from forward_features, found input of"),
    ],
)
def test_kinds_that_a_teacher_cannot_give(name: str, asked: dict[str, Any], why: str) -> None:
    with pytest.raises(TeacherError, match=why):
        TimmTeacher(TeacherSpec(name, **SPEC, **asked))


def test_a_class_token_teacher_has_cams() -> None:
    teacher = TimmTeacher(TeacherSpec("test_vit", kind="cam", num_classes=10, random_weights=0))
    blocks = ",".join(f"blocks.{number}" for number in range(6))
    assert teacher.header()["route"] == f"LayerCAM at {blocks}, NLC after 1 prefix tokens, spread by blocks.5"
    maps = teacher.start(torch.randint(0, 256, (2, 3, 160, 160), dtype=torch.uint8), torch.tensor([1, 2])).result()
    assert maps.payload["label_cam"].shape == (2, *teacher.grid) == (2, 10, 10)
    assert (maps.payload["label_cam"] >= 0).all()
    assert maps.payload["label_cam"].std() > 0
