"""The teacher: the identities that make a token's logit exact, and every teacher that must be refused."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from extract.errors import TeacherError
from extract.settings import TeacherSpec
from extract.teacher.presets import apply_preset
from extract.teacher.timm_teacher import TimmTeacher
from extract.teacher.weights import weights_digest

SMALL: dict[str, Any] = dict(num_classes=10, input_size=(64, 64), random_weights=0)


def randomised(name: str, path: Path, **model_args: Any) -> Path:
    """Weights of a model whose norms and biases are random, so that no identity holds only because one is zero."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10, **model_args)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point() and tensor.ndim <= 1:
            tensor.uniform_(0.5, 1.5)
    save_file(model.state_dict(), path)
    return path


@pytest.mark.parametrize("name", ["test_resnet", "resnet26", "dm_nfnet_f0", "test_nfnet", "regnetx_002"])
def test_label_maps_against_a_hook_on_the_pooling(name: str, tmp_path: Path) -> None:
    """Independent of the code under test: the pooling layer's input, times the classifier's weights."""
    weights = randomised(name, tmp_path / "w.safetensors")
    teacher = TimmTeacher(TeacherSpec(name, checkpoint=weights, num_classes=10, input_size=(64, 64)))
    pixels = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    labels = torch.tensor([1, 7, 7])
    seen: list[torch.Tensor] = []
    classifier = teacher.model.get_classifier()  # type: ignore[operator]
    pool = next(m for m in teacher.model.modules() if type(m).__name__ == "SelectAdaptivePool2d")
    handle = pool.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    with torch.inference_mode():
        output = teacher.model(teacher.normalise(pixels))
    handle.remove()
    expected = torch.einsum("bchw,bc->bhw", seen[0], classifier.weight[labels]) + classifier.bias[labels, None, None]
    maps = teacher.start(pixels, labels).result()
    logits = maps.payload["label_logit"]
    scale = expected.abs().max()
    assert (logits - expected).abs().max() / scale < 1e-5
    assert (logits.mean((1, 2)) - output[torch.arange(3), labels]).abs().max() / scale < 1e-5
    assert maps.prediction.tolist() == output.argmax(1).tolist()
    assert logits.shape[1:] == teacher.grid
    assert logits.std() > 0


def test_output_stride_refines_the_grid() -> None:
    assert TimmTeacher(TeacherSpec("test_resnet", **SMALL)).grid == (2, 2)
    assert TimmTeacher(TeacherSpec("test_resnet", model_args={"output_stride": 8}, **SMALL)).grid == (8, 8)


def test_random_weights_are_the_seeds() -> None:
    torch.manual_seed(123)
    one = weights_digest(TimmTeacher(TeacherSpec("test_resnet", **SMALL)).model)
    torch.manual_seed(456)
    two = weights_digest(TimmTeacher(TeacherSpec("test_resnet", **SMALL)).model)
    assert one == two
    assert torch.initial_seed() == 456


def test_digest_sees_one_changed_weight(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet")
    before = weights_digest(model)
    with torch.no_grad():
        model.conv1[0].weight.view(-1)[5] += 1e-3
    assert weights_digest(model) != before


def refuse(match: str, name: str = "test_resnet", **spec: Any) -> None:
    with pytest.raises(TeacherError, match=match):
        TimmTeacher(TeacherSpec(name, **{"random_weights": 0, **spec}))


def test_unknown_name_gets_the_nearest() -> None:
    refuse("did you mean resnet26", "resnet_26")


@pytest.mark.parametrize("spec", [{"random_weights": None}, {"pretrained": True}, {"checkpoint": Path("x")}])
def test_exactly_one_source_of_weights(spec: dict[str, Any]) -> None:
    refuse("one source of weights", **spec)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("test_vit", "average to the model's own, or its head at the mean token, within 2e-06, found a relative error"),
        ("crossvit_tiny_240", "features .* before the pooling, found none"),
    ],
)
def test_what_fits_no_route_is_refused(name: str, why: str) -> None:
    refuse(f"{why}.*; the nearest that fits is .*; --class-token may do", name)


def test_a_single_token_is_no_map() -> None:
    refuse("a grid of tokens, found one", input_size=(32, 32))


def test_model_arg_that_timm_does_not_take() -> None:
    refuse("timm cannot build it.*check --model-arg", model_args={"no_such": 1})


@pytest.mark.parametrize("name", ["num_classes", "checkpoint_path", "pretrained_cfg"])
def test_model_args_that_have_an_option_of_their_own(name: str) -> None:
    refuse(f"--model-arg {name}", model_args={name: 5})


@pytest.mark.parametrize("kind", ["label", "cam", "activation"])
@pytest.mark.parametrize(
    ("name", "arguments", "match"),
    [
        ("test_resnet", {"features_only": True}, "found FeatureListNet without .*leave --model-arg features_only=True"),
        ("test_vit", {"features_only": True, "out_indices": (1,)}, "found FeatureGetterNet .*out_indices=\\(1,\\) out"),
        ("test_resnet", {"global_pool": ""}, "cannot run at 160 x 160 px: .*--model-arg"),
        (
            "test_convnext",
            {"global_pool": ""},
            r"expected logits \[1, K\] .*gives \[1, 1000, 5, 5\]; leave --model-arg",
        ),
        ("test_resnet", {"drop_rate": "a"}, "cannot run .*ValueError.*--model-arg"),
    ],
)
def test_model_args_that_make_no_classifier(name: str, arguments: dict[str, Any], match: str, kind: str) -> None:
    refuse(match, name, model_args=arguments, kind=kind)


def test_a_model_without_classes_is_for_maps_without_classes() -> None:
    """Its first channel would pass for the logit of the first class."""
    refuse("a model of 0 classes that gives .*fit-head", num_classes=0)
    assert TimmTeacher(TeacherSpec("test_resnet", random_weights=0, num_classes=0, kind="activation")).num_classes == 0


def test_no_network_for_pretrained_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refuse("without network give --checkpoint", "resnet26.bt_in1k", pretrained=True, random_weights=None)


def checkpoint(path: Path, **spec: Any) -> dict[str, Any]:
    return {"random_weights": None, "checkpoint": path, **spec}


def test_missing_checkpoint(tmp_path: Path) -> None:
    refuse("found nothing there", **checkpoint(tmp_path / "none.safetensors"))


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_garbage_checkpoint(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"w.{suffix}").write_bytes(b"garbage" * 50)
    refuse("state dict of plain tensors", **checkpoint(tmp_path / f"w.{suffix}"))


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("/tmp/tokenmix-test-pickle-ran"),)


def test_pickled_code_does_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": Payload()}, tmp_path / "w.pth")
    refuse("re-save it as safetensors", **checkpoint(tmp_path / "w.pth"))
    assert not Path("/tmp/tokenmix-test-pickle-ran").exists()


def test_checkpoint_of_another_shape(tmp_path: Path) -> None:
    weights = randomised("test_resnet", tmp_path / "w.safetensors")
    refuse(r"fc.weight expected \(1000, .*found \(10, .*--num-classes", **checkpoint(weights))
    refuse("missing .*not in the model", "test_nfnet", **checkpoint(weights))


def test_checkpoint_of_a_run_that_diverged(tmp_path: Path) -> None:
    state = timm.create_model("test_resnet", num_classes=10).state_dict()
    state["layer1.0.bn1.running_var"][3] = float("nan")
    save_file(state, tmp_path / "w.safetensors")
    refuse(
        "found NaN in 1 tensors, layer1.0.bn1.running_var first",
        **checkpoint(tmp_path / "w.safetensors", num_classes=10),
    )


def test_pth_of_a_training_run_is_read(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=10)
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "w.pth"
    )
    spec = TeacherSpec("test_resnet", checkpoint=tmp_path / "w.pth", num_classes=10, input_size=(64, 64))
    assert TimmTeacher(spec).digest == weights_digest(model)


def test_unusable_device() -> None:
    for device in ("cuda:99", "foo"):
        refuse(f"--device {device}", device=device, input_size=(64, 64))


def test_presets_give_way_to_what_is_asked_for() -> None:
    assert apply_preset(TeacherSpec("nfnet_f6")) == TeacherSpec("dm_nfnet_f6", input_size=(576, 576))
    assert apply_preset(TeacherSpec("nfnet_f6", input_size=(64, 64))).input_size == (64, 64)
    assert apply_preset(TeacherSpec("resnet50", amp="bf16")) == TeacherSpec("resnet50", amp="bf16")
