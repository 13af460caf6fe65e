"""What is stored of each kind, against its definition."""

from dataclasses import replace
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
from extract.teacher.kinds.cam import RIVALRY, contested, rivals_of
from extract.teacher.kinds.from_tokens import SUGGESTED
from extract.teacher.kinds.spread import likeness, spread, transitions
from extract.teacher.kinds.stages import MOST_BLOCKS, Stages, resampled, usual_stages
from extract.teacher.timm_teacher import TimmTeacher
from store import MapStore, verify
from tests.extract.conftest import MakeFolder
from tests.extract.teacher.models import shaken

PLAIN: dict[str, Any] = dict(spread=False, rivals=0)  # of kind cam: LayerCAM fused, and nothing else
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
    teacher = TimmTeacher(TeacherSpec("test_resnet", kind="cam", cam_stage="layer3", **PLAIN, **SPEC))
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
    rectangle = teacher._kind._stages._views["layer3"].rectangle  # type: ignore[attr-defined]
    expected = resampled(expected[None, None], rectangle, (4, 4))[0, 0]
    torch.testing.assert_close(stored, expected / expected.max(), rtol=1e-3, atol=1e-5)


def cam_of(name: str, pixels: torch.Tensor, **settings: Any) -> torch.Tensor:
    teacher = TimmTeacher(TeacherSpec(name, kind="cam", **(SPEC | settings)))
    return teacher.start(pixels, torch.arange(len(pixels))).result().payload["label_cam"]


def test_cam_fuses_stages_by_their_geometric_mean() -> None:
    pixels = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    options: dict[str, Any] = PLAIN | {"model_args": {"output_stride": 8}}  # so that stages have one grid
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
        cam_of("resnet18", pixels, **PLAIN, **given) for given in ({"scales": (2.0,)}, {"input_size": (128, 128)})
    )
    assert scaled.shape == direct.shape == (3, 16, 16)
    torch.testing.assert_close(scaled, direct, rtol=0, atol=0.05)


def test_cam_fuses_scales_by_their_geometric_mean() -> None:
    images, outputs = torch.randn(3, 3, 128, 128), torch.arange(3)
    resized = {0.5: functional.interpolate(images, (64, 64), mode="bicubic", antialias=True), 1.0: images}

    def kind(*scales: float) -> Any:
        spec = TeacherSpec("test_resnet", kind="cam", scales=scales, **(SPEC | PLAIN | {"input_size": (128, 128)}))
        return TimmTeacher(spec)._kind

    both, alone = kind(0.5, 1.0), {scale: kind(scale) for scale in resized}
    for one in alone.values():
        one.grid = both.grid  # that of the finest stage of all
    half, whole = (one.maps(resized[s], outputs, flipped=False).payload["label_cam"] for s, one in alone.items())
    expected = (half * whole).sqrt()
    found = both.maps(images, outputs, flipped=False).payload["label_cam"]
    torch.testing.assert_close(found, expected / expected.amax((1, 2), keepdim=True), rtol=1e-3, atol=1e-5)
    assert (half - whole).abs().max() > 0.1


def test_cam_spreads_over_tokens_alike_in_all_passes() -> None:
    """By stages of strides 4 to 16, in both scales and the mirror image, of a wide input."""
    pixels = torch.randint(0, 256, (2, 3, 128, 192), dtype=torch.uint8)
    settings: dict[str, Any] = {"scales": (1.0, 0.5), "flip_average": True, "rivals": 0, "input_size": (128, 192)}
    teacher = TimmTeacher(TeacherSpec("test_resnet", kind="cam", **(SPEC | settings)))
    kind: Any = teacher._kind
    assert kind._stages.compared == ["layer1", "layer2", "layer3"]
    images, found = teacher.normalise(pixels), []
    for turned in (False, True):
        for size in ((128, 192), (64, 96)):
            view = functional.interpolate(images.flip(3) if turned else images, size, mode="bicubic", antialias=True)
            seen = kind._stages.look(view)[1]
            tokens = [seen[name].on(kind.grid, seen[name].output.detach()) for name in kind._stages.compared]
            found += [likeness(part.flip(3) if turned else part) for part in tokens]
    plain = cam_of("test_resnet", pixels, **(settings | {"spread": False}))
    expected = spread(plain, transitions(torch.stack(found).mean(0)))
    stored = teacher.start(pixels, torch.arange(2)).result().payload["label_cam"]
    torch.testing.assert_close(stored, expected / expected.amax((1, 2), keepdim=True), rtol=1e-4, atol=1e-5)
    assert (stored - plain).abs().max() > 0.05


def test_rivals_are_the_largest_other_outputs() -> None:
    logits = torch.tensor([[5.0, 1, 2, 3], [0, 7, 4, -1]])
    assert rivals_of(logits, torch.tensor([0, 3]), 2).tolist() == [2.5, 5.5]


def test_what_speaks_for_rivals_counts_less_for_the_label() -> None:
    label, rivals = torch.tensor([[[1.0, 0.5, 0.5]]]), torch.tensor([[[0.0, 2.0, 0.0]]])
    expected = torch.tensor([[[1, 0.5 * 0.5 / (0.5 + RIVALRY), 0.5]]])
    torch.testing.assert_close(contested(label, rivals), expected)
    assert torch.equal(contested(torch.full((1, 1, 3), 0.2), rivals), torch.ones(1, 1, 3))  # nothing is said for it


def test_a_teacher_of_few_classes_has_fewer_rivals() -> None:
    for classes, rivals in ((1, None), (2, 1), (3, 2), (10, 3)):
        header = TimmTeacher(TeacherSpec("test_resnet", kind="cam", **(SPEC | {"num_classes": classes}))).header()
        assert header.get("rivals") == rivals


def test_cam_with_rivals_is_what_is_left_of_the_labels_map() -> None:
    kind: Any = TimmTeacher(TeacherSpec("test_resnet", kind="cam", spread=False, rivals=1, **SPEC))._kind
    images, outputs = torch.randn(3, 3, 64, 64), torch.arange(3)
    logits = kind._stages.look(images)[0].detach()
    best = logits.scatter(1, outputs[:, None], -torch.inf).argmax(1)
    plain: Any = TimmTeacher(TeacherSpec("test_resnet", kind="cam", **PLAIN, **SPEC))._kind
    label, rival = (plain.maps(images, of, flipped=False).payload["label_cam"] for of in (outputs, best))
    torch.testing.assert_close(kind.maps(images, outputs, flipped=False).payload["label_cam"], contested(label, rival))


def test_not_a_number_is_not_made_a_map_of() -> None:
    """So that the job refuses it, and names the image."""
    kind: Any = TimmTeacher(TeacherSpec("test_resnet", kind="cam", **SPEC))._kind
    images = torch.randn(2, 3, 64, 64)
    images[0, 0, 3, 3] = torch.nan
    maps = kind.maps(images, torch.arange(2), flipped=False).payload["label_cam"]
    assert not maps[0].isfinite().all()
    assert maps[1].isfinite().all()


def test_stages_that_give_no_map_are_only_refused_where_they_are_named() -> None:
    """As those of timm's list that give a tuple, or that the model skips."""

    class Two(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, x

    class First(torch.nn.Module):
        def forward(self, pair: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            return pair[0]

    model: Any = timm.create_model("test_resnet", num_classes=10).eval().requires_grad_(False)
    model.act1 = torch.nn.Sequential(model.act1, Two(), First())
    model.unused = torch.nn.Identity()
    model.feature_info = [*model.feature_info, *({"module": name, "reduction": 4} for name in ("act1.1", "unused"))]
    assert Stages(model, ["layer2"], (64, 64), compare=True).compared == ["layer1", "layer2", "layer3"]
    for name, why in {"act1.1": "expected a stage with one output, found tuple", "unused": "that it does not"}.items():
        with pytest.raises(TeacherError, match=f"--cam-stage {name}: .*{why}"):
            Stages(model, [name], (64, 64), compare=False)


def test_usual_stages() -> None:
    assert usual_stages(timm.create_model("resnet18")) == ["layer2", "layer3", "layer4"]
    assert usual_stages(timm.create_model("test_vit")) == [f"blocks.{number}" for number in range(6)]
    deep = usual_stages(timm.create_model("vit_tiny_patch16_224"))
    assert deep == [f"blocks.{number}" for number in (0, 2, 3, 5, 6, 8, 9, 11)]
    assert len(deep) == MOST_BLOCKS


def test_the_stored_grid_is_at_most_as_fine_as_asked() -> None:
    pixels = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    assert cam_of("test_resnet", pixels).shape == (1, 8, 8)
    assert cam_of("test_resnet", pixels, cam_grid=5).shape == (1, 5, 5)


def test_scales_of_a_transformer_need_positions_of_any_size() -> None:
    asked = TeacherSpec("vit_tiny_patch16_224", kind="cam", random_weights=0, num_classes=10, scales=(0.5, 1.0),
                        model_args={"depth": 2})  # fmt: skip
    with pytest.raises(TeacherError, match=r"--scales 0\.5: .*dynamic_img_size=True helps"):
        TimmTeacher(asked)
    assert TimmTeacher(replace(asked, model_args={"depth": 2, "dynamic_img_size": True})).grid == (14, 14)


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
        ("test_resnet", {"kind": "cam", "compile": True}, "--compile: expected another kind than cam"),
        ("test_resnet", {"kind": "cam", "cam_stage": "layer2,fc.no"}, "--cam-stage fc.no: expected a module of"),
        ("efficientvit_b0", {"compile": True}, "--compile: expected tokens from forward_features, found input of"),
    ],
)
def test_kinds_that_a_teacher_cannot_give(name: str, asked: dict[str, Any], why: str) -> None:
    with pytest.raises(TeacherError, match=why):
        TimmTeacher(TeacherSpec(name, **SPEC, **asked))


def test_a_class_token_teacher_has_cams() -> None:
    teacher = TimmTeacher(TeacherSpec("test_vit", kind="cam", num_classes=10, random_weights=0))
    blocks = ",".join(f"blocks.{number}" for number in range(6))
    assert teacher.header()["route"] == (
        f"LayerCAM at {blocks}; 3 steps over tokens alike in blocks.5 to the power 4; 3 rivals times 2"
    )
    maps = teacher.start(torch.randint(0, 256, (2, 3, 160, 160), dtype=torch.uint8), torch.tensor([1, 2])).result()
    assert maps.payload["label_cam"].shape == (2, *teacher.grid) == (2, 10, 10)
    assert (maps.payload["label_cam"] >= 0).all()
    assert maps.payload["label_cam"].std() > 0
