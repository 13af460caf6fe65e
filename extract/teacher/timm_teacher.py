"""The teacher: any timm classifier, and how its maps are made; the route is found by test (routes.py)."""

from __future__ import annotations

import ast
import difflib
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import timm
import torch

from extract.errors import TeacherError
from extract.settings import TeacherSpec
from extract.teacher.kinds import CamKind, Kind, Maps, TokenKind
from extract.teacher.preprocess import Preprocessing
from extract.teacher.routes import Refusal, Route, choose_route
from extract.teacher.token_sources import HeadSource
from extract.teacher.weights import first_line, load_checkpoint, weights_digest
from store.format.header import Json

# What to name to a user whose teacher is refused; all pass (docs/teachers.md).
FITTING = (
    *(
        "resnet26",
        "resnet50",
        "resnet101",
        "resnext50_32x4d",
        "seresnet50",
        "regnety_032",
        "dm_nfnet_f0",
        "dm_nfnet_f6",
    ),
    *(
        "efficientnet_b0",
        "mobilenetv3_large_100",
        "densenet121",
        "convnext_tiny",
        "convnextv2_tiny",
        "maxvit_tiny_tf_224",
    ),
    *("swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "vit_medium_patch16_gap_256", "mixer_b16_224"),
    *("beit_base_patch16_224", "eva02_tiny_patch14_336", "hiera_tiny_224", "caformer_s18", "inception_v3"),
)
DEFAULT_TOP_K = 5
AMP_DTYPES = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}


# What would load weights, or change what the header says, behind the back of our own options.
RESERVED_ARGS = frozenset(
    {"pretrained", "checkpoint_path", "num_classes", "pretrained_cfg", "pretrained_cfg_overlay", "in_chans"}
)


class Pending:
    """Maps on their way from the device to the CPU."""

    def __init__(self, maps: Maps):
        """Start the copies; on the CPU there is nothing to do."""
        self._maps, self._arrived = maps, None
        if maps.prediction.is_cuda:
            self._maps = Maps({name: _to_pinned(t) for name, t in maps.payload.items()}, _to_pinned(maps.prediction))
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def result(self) -> Maps:
        """Wait for them."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._maps


def _to_pinned(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


class Teacher:
    """A model in evaluation mode with its preprocessing; `start` is the only thing that the job calls."""

    def __init__(self, spec: TeacherSpec):
        """Build, load, move to the device and check. Raises TeacherError, saying which of these failed."""
        self.spec = spec
        self.model = build_model(spec)
        self.preprocessing = Preprocessing.of_model(
            self.model, input_size=spec.input_size, crop_mode=spec.crop_mode, crop_pct=spec.crop_pct
        )
        self.digest = weights_digest(self.model)
        self.num_classes = int(self.model.num_classes)  # type: ignore[arg-type]
        self._kind = self._make_kind()
        self.grid, self.depth = self._kind.grid, self._kind.depth
        try:
            self.device = torch.device(spec.device)
            torch.ones(1, device=self.device).item()  # "meta" takes a model, but has no numbers
            self.model.to(self.device).to(memory_format=torch.channels_last)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
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
            "route": self._kind.route,
            "flip_average": spec.flip_average,
        }

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 [B, 3, H, W] on any device -> the model's input, float32 on the teacher's."""
        images = pixels.to(self.device, non_blocking=True).float().div_(255).sub_(self._mean).div_(self._std)
        return images.contiguous(memory_format=torch.channels_last)

    def start(self, pixels: torch.Tensor, labels: torch.Tensor, dtype: torch.dtype = torch.float32) -> Pending:
        """uint8 images [B, 3, H, W] and labels [B] -> their maps, logits as `dtype`; does not wait for the device."""
        with torch.no_grad():
            images = self.normalise(pixels)
            labels = labels.to(self.device, non_blocking=True)
            maps = self._kind.maps(images, labels, flipped=self.spec.flip_average)
            payload = {name: t.to(dtype) if t.is_floating_point() else t for name, t in maps.payload.items()}
        return Pending(Maps(payload, maps.prediction))

    def maps(self, pixels: torch.Tensor, labels: torch.Tensor) -> Maps:
        """`start`, and its result."""
        return self.start(pixels, labels).result()

    def head(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight [K, C] and bias [K] that turn kind features into logits."""
        assert self._route is not None
        with torch.no_grad():
            weight, bias = self._route.head()
        return weight.float().cpu(), bias.float().cpu()

    def _make_kind(self) -> Kind:
        spec, size = self.spec, self.preprocessing.input_size
        self._route: Route | None = None
        if spec.kind == "cam":
            if spec.compile:
                raise TeacherError("--compile: expected another kind than cam, whose pass back it leaves as it is")
            return CamKind(self.model, spec.cam_stage, size, self._forward)
        self._route = find_route(self.model, size, spec)
        if spec.kind == "features" and self._route.form != "affine":
            raise TeacherError(
                f"--kind features: expected a head that is affine after average pooling, found {self._route}; "
                "use --kind label"
            )
        if spec.kind == "topk" and self._route.form == "gradient":
            raise TeacherError(f"--kind topk: expected a head on single tokens, found {self._route}; use --kind label")
        top_k = spec.top_k or DEFAULT_TOP_K
        if spec.kind == "topk" and top_k > self.num_classes:
            raise TeacherError(f"--top-k {top_k}: expected at most the teacher's {self.num_classes} classes")
        if spec.compile:
            self._compile(self._route)
        return TokenKind(spec.kind, self._route, self._tokens, top_k)

    def _compile(self, route: Route) -> None:
        """Compile what gives the tokens; a first try on next to nothing tells whether there is a compiler."""
        if not isinstance(route.source, HeadSource):
            raise TeacherError(f"--compile: expected tokens from forward_features, found {route}; leave it out")
        try:
            torch.compile(torch.sin)(torch.ones(2, device=self.spec.device))
        except Exception as error:
            reason = first_line(error.__cause__ or error)
            raise TeacherError(
                f"--compile: expected a compiler that torch can use, found {reason}; install one, or leave it out"
            ) from error
        model: Any = self.model
        model.forward_features = torch.compile(model.forward_features)

    def _tokens(self, images: torch.Tensor) -> torch.Tensor:
        assert self._route is not None
        with self._autocast():
            return self._route.tokens(images)

    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        with self._autocast():
            logits: torch.Tensor = self.model(images)
        return logits

    def _autocast(self) -> AbstractContextManager[object]:
        dtype = AMP_DTYPES[self.spec.amp]
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)


def find_route(model: torch.nn.Module, input_size: tuple[int, int], spec: TeacherSpec) -> Route:
    """The teacher's route; TeacherError with the reason, and the nearest model that fits, where there is none."""
    try:
        route = choose_route(model, input_size, class_token=spec.class_token)
    except (AttributeError, AssertionError, RuntimeError, NotImplementedError) as error:
        raise TeacherError(f"--teacher {spec.name}: cannot run at {input_size}: {first_line(error)}") from error
    if isinstance(route, Refusal):
        near = difflib.get_close_matches(spec.name, FITTING, n=1, cutoff=0)[0]
        hint = f"the nearest that fits is {near}" + ("" if spec.class_token else "; --class-token may do, inexactly")
        raise TeacherError(f"--teacher {spec.name}: expected {route.expected}, found {route.found}; {hint}")
    return route


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
    reserved = sorted(RESERVED_ARGS & model_args.keys())
    if reserved:
        raise TeacherError(
            f"--model-arg {reserved[0]}: expected an argument of the model's architecture; weights, classes and "
            "preprocessing have options of their own: --checkpoint, --pretrained, --num-classes, --crop-mode"
        )
    if spec.num_classes is not None:
        model_args["num_classes"] = spec.num_classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.random_weights or 0)
        try:
            model: torch.nn.Module = timm.create_model(spec.name, pretrained=spec.pretrained, **model_args)
        except Exception as error:
            hint = "; without network give --checkpoint FILE" if spec.pretrained else "; check --model-arg"
            raise TeacherError(f"--teacher {spec.name}: timm cannot build it: {first_line(error)}{hint}") from error
    if spec.checkpoint is not None:
        load_checkpoint(model, spec.checkpoint)
    return model.eval().requires_grad_(False)


def _check_name(name: str) -> None:
    if ":" in name or timm.is_model(name):  # hf-hub:, local-dir: are resolved by timm
        return
    near = difflib.get_close_matches(name, timm.list_models() + timm.list_pretrained(), n=3, cutoff=0.5)
    nearest = f"; did you mean {', '.join(near)}?" if near else ""
    raise TeacherError(f"--teacher {name}: expected a timm model, found no such name{nearest}")


def parse_model_arg(text: str) -> tuple[str, object]:
    """`key=value` -> (key, value); the value is a Python literal, or else the string itself."""
    key, sep, value = text.partition("=")
    if not sep or not key.isidentifier():
        raise TeacherError(f"--model-arg {text}: expected key=value")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value
