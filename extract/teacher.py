"""The teacher: any timm classifier whose head is affine after average pooling, and its per-token logits.

The head is never touched. Each token of the last feature map goes through the model's own `forward_head` as a
1 x 1 map; because the head is affine, the tokens' logits average to the model's own logits. `check_route` tests
both on the model that will run, so no family is trusted by its name.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
import xxhash
from timm.models import load_state_dict

from extract.errors import TeacherError
from extract.preprocess import Preprocessing
from store import Json

TOLERANCE = 2e-6  # of the largest logit, float32: looser bounds pass heads that are not affine
AMP_DTYPES = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class TeacherSpec:
    """What the user says about the teacher. Exactly one of `pretrained`, `checkpoint`, `random_weights`."""

    name: str
    pretrained: bool = False
    checkpoint: Path | None = None
    random_weights: int | None = None
    num_classes: int | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)
    input_size: tuple[int, int] | None = None
    crop_mode: str | None = None
    crop_pct: float | None = None
    device: str = "cpu"
    amp: str = "none"


@dataclass(frozen=True)
class LabelMaps:
    """The result for a batch, on the CPU: logits float32 [B, h, w] of each row's label, prediction int64 [B]."""

    logits: torch.Tensor
    prediction: torch.Tensor


class Teacher:
    """A model in evaluation mode with its preprocessing; `label_maps` is the only thing the job calls."""

    def __init__(self, spec: TeacherSpec):
        """Build, load, move to the device and check. Raises TeacherError, saying which of these failed."""
        self.spec = spec
        self.model = build_model(spec)
        self.preprocessing = Preprocessing.of_model(
            self.model, input_size=spec.input_size, crop_mode=spec.crop_mode, crop_pct=spec.crop_pct
        )
        self.digest = weights_digest(self.model)
        self.num_classes = int(self.model.num_classes)  # type: ignore[arg-type]
        self.grid = check_route(self.model, self.preprocessing.input_size, spec.name)
        self.device = torch.device(spec.device)
        try:
            self.model.to(self.device).to(memory_format=torch.channels_last)
        except (RuntimeError, AssertionError) as error:
            raise TeacherError(f"--device {spec.device}: cannot be used: {error}") from error
        scale = self.preprocessing
        self._mean = torch.tensor(scale.mean, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(scale.std, device=self.device).view(1, 3, 1, 1)

    def header(self) -> dict[str, Json]:
        """The `teacher` field of the store's header: what decides the content, and so must not change."""
        spec = self.spec
        source = "pretrained" if spec.pretrained else "checkpoint" if spec.checkpoint else "random"
        return {
            "name": spec.name,
            "source": source,
            "digest": self.digest,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "classes": self.num_classes,
            "model_args": dict(spec.model_args),
            "amp": spec.amp,
            "route": "tokens through the affine head",
        }

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 [B, 3, H, W] on any device -> the model's input, float32 on the teacher's."""
        images = pixels.to(self.device, non_blocking=True).float().div_(255).sub_(self._mean).div_(self._std)
        return images.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def label_maps(self, pixels: torch.Tensor, labels: torch.Tensor) -> LabelMaps:
        """uint8 images [B, 3, H, W] and their labels [B] -> per-token logits of the label, and the top-1 class."""
        with self._autocast():
            features = self.model.forward_features(self.normalise(pixels))  # type: ignore[operator]
        logits = token_logits(self.model, features.float())  # [B, h, w, K]
        index = labels.to(self.device).view(-1, 1, 1, 1).expand(*logits.shape[:3], 1)
        prediction = logits.mean((1, 2)).argmax(1)
        return LabelMaps(logits.gather(3, index).squeeze(3).cpu(), prediction.cpu())

    def _autocast(self) -> AbstractContextManager[object]:
        dtype = AMP_DTYPES[self.spec.amp]
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)


def build_model(spec: TeacherSpec) -> torch.nn.Module:
    """The timm model with its weights, in evaluation mode, on the CPU, float32."""
    _check_name(spec.name)
    sources = [spec.pretrained, spec.checkpoint is not None, spec.random_weights is not None]
    if sum(sources) != 1:
        raise TeacherError(
            f"--teacher {spec.name}: expected one source of weights, found {sum(sources)}; give one of --pretrained, "
            "--checkpoint FILE, or --random-weights SEED (for trying things out)"
        )
    model_args = dict(spec.model_args)
    if spec.num_classes is not None:
        model_args["num_classes"] = spec.num_classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.random_weights or 0)
        try:
            model: torch.nn.Module = timm.create_model(spec.name, pretrained=spec.pretrained, **model_args)
        except Exception as error:
            hint = "; without network give --checkpoint FILE" if spec.pretrained else "; check --model-arg"
            raise TeacherError(f"--teacher {spec.name}: timm cannot build it: {_first_line(error)}{hint}") from error
    if spec.checkpoint is not None:
        _load_checkpoint(model, spec.checkpoint)
    return model.eval().requires_grad_(False)


def _check_name(name: str) -> None:
    if ":" in name or timm.is_model(name):  # hf-hub:, local-dir: are resolved by timm
        return
    near = difflib.get_close_matches(name, timm.list_models() + timm.list_pretrained(), n=3, cutoff=0.5)
    nearest = f"; did you mean {', '.join(near)}?" if near else ""
    raise TeacherError(f"--teacher {name}: expected a timm model, found no such name{nearest}")


def _load_checkpoint(model: torch.nn.Module, path: Path) -> None:
    if not path.is_file():
        raise TeacherError(f"--checkpoint {path}: expected a .safetensors or .pth file, found nothing there")
    try:
        given = load_state_dict(str(path), weights_only=True)  # no pickled code runs
    except Exception as error:
        raise TeacherError(
            f"--checkpoint {path}: expected a state dict of plain tensors, found: {_first_line(error)}; re-save it "
            "as safetensors"
        ) from error
    wanted = model.state_dict()
    problems = _misfits(wanted, given)
    if problems:
        raise TeacherError(
            f"--checkpoint {path}: does not fit the model: {'; '.join(problems)}. "
            "Check --teacher, --num-classes and --model-arg against the training run"
        )
    model.load_state_dict(given)


def _misfits(wanted: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> list[str]:
    def listed(what: str, names: Sequence[str]) -> str:
        return f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"

    missing = [name for name in wanted if name not in given]
    unexpected = [name for name in given if name not in wanted]
    shapes = [
        f"{name} expected {tuple(wanted[name].shape)} found {tuple(given[name].shape)}"
        for name in wanted
        if name in given and wanted[name].shape != given[name].shape
    ]
    named = (("missing", missing), ("not in the model", unexpected), ("of another shape", shapes))
    return [listed(what, names) for what, names in named if names]


def weights_digest(model: torch.nn.Module) -> str:
    """xxh3_128 over names and values of all parameters and buffers: what makes two teachers the same."""
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def token_logits(model: torch.nn.Module, features: torch.Tensor) -> torch.Tensor:
    """Features [B, C, h, w] -> logits [B, h, w, K]: each token through `forward_head` as its own 1 x 1 map."""
    batch, channels, height, width = features.shape
    tokens = features.permute(0, 2, 3, 1).reshape(-1, channels, 1, 1)
    logits: torch.Tensor = model.forward_head(tokens)  # type: ignore[operator]
    return logits.view(batch, height, width, -1)


@torch.inference_mode()
def check_route(model: torch.nn.Module, input_size: tuple[int, int], name: str) -> tuple[int, int]:
    """Check `tail(mean token) == model(x)` and `mean(tail(token)) == model(x)` and return the grid (h, w).

    Raises TeacherError where the features are no [B, C, h, w] map, the grid is a single token, or either
    identity fails by more than TOLERANCE of the largest logit.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, *input_size, generator=generator)
    try:
        features = model.forward_features(images)  # type: ignore[operator]
        direct = model(images)
    except (AttributeError, AssertionError, RuntimeError) as error:
        raise TeacherError(f"--teacher {name}: cannot run at {input_size}: {_first_line(error)}") from error
    if not isinstance(features, torch.Tensor) or features.ndim != 4:
        found = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
        raise _refusal(name, f"features [B, C, h, w] before the pooling, found {found}")
    if features.shape[2] * features.shape[3] < 2:
        raise TeacherError(
            f"--teacher {name}: expected a grid of tokens, found one at {input_size}; give a larger --input-size"
        )
    try:
        pooled = model.forward_head(features.mean((2, 3), keepdim=True))  # type: ignore[operator]
        averaged = token_logits(model, features).double().mean((1, 2))
    except (RuntimeError, ValueError) as error:
        raise _refusal(name, f"a head that takes one token at a time, found: {_first_line(error)}") from error
    largest = direct.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    for what, logits in (
        ("the head at the mean token", pooled),
        ("the mean of the tokens' logits", averaged),
    ):
        if logits.shape != direct.shape:
            raise _refusal(name, f"{what} of shape {tuple(direct.shape)}, found {tuple(logits.shape)}")
        error_ = float((logits - direct).abs().max() / largest)
        if not error_ <= TOLERANCE:
            raise _refusal(name, f"{what} equal to the model's output within {TOLERANCE:g}, found {error_:.2g}")
    return int(features.shape[2]), int(features.shape[3])


def _refusal(name: str, expected_found: str) -> TeacherError:
    return TeacherError(
        f"--teacher {name}: expected {expected_found}; its head is not affine after average pooling. ResNets and "
        "NFNets fit (resnet26, resnet101, dm_nfnet_f6)"
    )


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"


def parse_model_arg(text: str) -> tuple[str, object]:
    """`key=value` -> (key, value); the value is a Python literal, or else the string itself."""
    key, sep, value = text.partition("=")
    if not sep or not key.isidentifier():
        raise TeacherError(f"--model-arg {text}: expected key=value")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value
