"""Checkpoints as training runs leave them: inside other dicts, under other names, with more than the model."""

import logging
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from extract.errors import TeacherError
from extract.teacher.weights import load_checkpoint, weights_digest

State = dict[str, torch.Tensor]


def model(seed: int = 0, classes: int = 10) -> torch.nn.Module:
    torch.manual_seed(seed)
    made: torch.nn.Module = timm.create_model("test_resnet", num_classes=classes)
    return made


def under(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def regional(state: State) -> State:
    """As torch.compile and FSDP leave the names of parts that they wrap."""
    return {name.replace("layer1.", "_orig_mod.layer1._orig_mod."): tensor for name, tensor in state.items()}


EXTRA = {"n_averaged": torch.tensor(3), "criterion.weight": torch.ones(10)}
LAYOUTS: dict[str, Callable[[State], Any]] = {
    "Lightning": lambda state: {
        "epoch": 3,
        "state_dict": under("model.", state) | EXTRA,
        "hyper_parameters": {"lr": 1},
    },
    "timm": lambda state: {"arch": "x", "args": Namespace(lr=1), "state_dict": state},
    "DDP": lambda state: under("module.", state),
    "compiled": lambda state: under("_orig_mod.", state),
    "compiled in DDP in Lightning": lambda state: {"state_dict": under("model.module._orig_mod.", state)},
    "compiled parts": regional,
    "averaged": lambda state: {"averaged": under("module.", state) | {"n_averaged": torch.tensor(3)}},
    "backbone": lambda state: under("net.backbone.", state) | EXTRA,
    "ema": lambda state: {"ema": state, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}},
    "nested": lambda state: {"run": {"weights": state}, "step": 7},
    "without counters": lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_read_as_the_model_that_was_saved(layout: str, tmp_path: Path) -> None:
    torch.save(LAYOUTS[layout](model().state_dict()), tmp_path / "w.pth")
    other = model(seed=1)
    assert weights_digest(other) != weights_digest(model())
    load_checkpoint(other, tmp_path / "w.pth")
    assert weights_digest(other) == weights_digest(model())


def test_a_prefix_is_said_and_what_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_file(under("model.", model().state_dict()) | EXTRA, tmp_path / "w.safetensors")
    with caplog.at_level(logging.WARNING):
        load_checkpoint(model(seed=1), tmp_path / "w.safetensors")
    (line,) = caplog.messages
    for part in ("without the prefix 'model.'", "left out 2 others", "n_averaged"):
        assert part in line
    caplog.clear()
    save_file(model().state_dict(), tmp_path / "plain.safetensors")
    load_checkpoint(model(seed=1), tmp_path / "plain.safetensors")
    assert caplog.messages == []


def refuse(given: Any, *parts: str, path: Path) -> None:
    torch.save(given, path)
    with pytest.raises(TeacherError) as refused:
        load_checkpoint(model(seed=1), path)
    for part in (str(path), *parts):
        assert part in str(refused.value)


def test_two_models_that_fit_are_one_too_many(tmp_path: Path) -> None:
    one, other = model().state_dict(), model(seed=2).state_dict()
    refuse({"student": one, "teacher": other}, "found 2", "'student'", "'teacher'", path=tmp_path / "w.pth")
    flat = under("model.", one) | under("ema_model.", other)
    refuse({"state_dict": flat}, "found 2", "'model.'", "'ema_model.'", path=tmp_path / "w.pth")


def test_what_does_not_fit_is_named_as_the_model_has_it(tmp_path: Path) -> None:
    other_head = under("model.", model(classes=7).state_dict())
    refuse({"state_dict": other_head}, "prefix 'model.'", "fc.weight expected (10, 96) found (7, 96)", "--num-classes",
           path=tmp_path / "w.pth")  # fmt: skip
    partial = under("model.", model().state_dict())
    del partial["model.fc.bias"]
    refuse(partial, "1 missing (fc.bias)", path=tmp_path / "w.pth")
    more = model().state_dict() | {"aux.weight": torch.ones(1)}
    refuse(more, "1 not in the model (aux.weight)", path=tmp_path / "w.pth")


@pytest.mark.parametrize("given", [{"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1}]}, {}])
def test_an_optimizer_alone_is_no_model(given: Any, tmp_path: Path) -> None:
    refuse(given, "expected the weights of a model", path=tmp_path / "w.pth")


@pytest.mark.parametrize("given", [[1], 3, torch.ones(2)])
def test_no_dict_at_all(given: Any, tmp_path: Path) -> None:
    refuse(given, "expected a state dict", path=tmp_path / "w.pth")


def test_nan_is_named_under_a_prefix_too(tmp_path: Path) -> None:
    state = model().state_dict()
    state["fc.bias"][2] = float("nan")
    refuse(under("module.", state), "NaN in 1 tensors, fc.bias", path=tmp_path / "w.pth")
