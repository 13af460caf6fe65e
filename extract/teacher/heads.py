"""A linear head of one's own on any backbone, and the file that keeps it.

The logits of an image are weight @ p + bias, with p the mean of the backbone's tokens. So a token's logits are
weight @ t_i + bias, and their mean is the image's logits: exact, whatever the backbone's own head does. That head, with
the norms and hidden layers that it may have behind the pooling, is not used.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from extract.errors import TeacherError
from extract.teacher.tokens.reading_order import check_reading_order, probe_images
from extract.teacher.tokens.routes import Route, choose_route
from extract.teacher.tokens.token_sources import HeadSource, TokenSource, possible_layouts
from extract.teacher.weights import first_line
from store.folder.files import write_whole
from store.spec import Json

_METADATA = "tokenmix_head"  # the file's one metadata entry, JSON


@dataclass(frozen=True)
class Backbone:
    """What a head was fitted on. `digest`: of its weights; `tokens`: which of its features; `outputs`: of its head."""

    name: str
    digest: str
    tokens: str
    outputs: int


@dataclass(frozen=True)
class HeldOut:
    """Accuracy on images that the fit did not see, in shares of 1; `balanced`: the mean over classes."""

    images: int
    classes: int
    top1: float
    balanced: float


@dataclass(frozen=True)
class LinearHead:
    """A head for K classes, by name, on C features: logits = weight @ features + bias; float32 [K, C] and [K]."""

    weight: torch.Tensor = field(repr=False)
    bias: torch.Tensor = field(repr=False)
    class_names: tuple[str, ...]
    backbone: Backbone
    images_digest: str  # of the ordered list of (key, label)
    l2: float  # on standardised features
    class_weights: str  # balanced or none
    held_out: HeldOut | None = None  # None: no class had an image to spare

    @property
    def digest(self) -> str:
        """xxh3_128, in hex, over the weights, the bias and the names of the classes."""
        digest = xxhash.xxh3_128()
        for tensor in (self.weight, self.bias):
            digest.update(tensor.contiguous().numpy().data)
        digest.update(json.dumps(self.class_names).encode())
        return digest.hexdigest()

    def header(self) -> dict[str, Json]:
        """What the header of a store says of it, in `teacher.head`."""
        return {
            "digest": self.digest,
            "accuracy": None if self.held_out is None else asdict(self.held_out),
            "class_names": list(self.class_names),
            "images_digest": self.images_digest,
            "tokens": self.backbone.tokens,
            "backbone_classes": self.backbone.outputs,
        }


def save_head(head: LinearHead, path: Path) -> None:
    """Write a safetensors file, whole or not at all; OSError where that is not possible."""
    values = {name: value for name, value in asdict(head).items() if name not in ("weight", "bias")}
    data = save({"weight": head.weight, "bias": head.bias}, {_METADATA: json.dumps(values, ensure_ascii=False)})
    write_whole(path, data)


def load_head(path: Path) -> LinearHead:
    """Read what `save_head` wrote; TeacherError for anything else."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- not a mapping
            values = json.loads((file.metadata() or {})[_METADATA])
        head = _head_of(tensors, values)
    except FileNotFoundError as error:
        raise TeacherError(
            f"--head {path}: expected a file that `tokenmix fit-head` wrote, found nothing; check the path"
        ) from error
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise TeacherError(
            f"--head {path}: expected a file that `tokenmix fit-head` wrote, found {first_line(error)}; fit it again"
        ) from error
    return head


def _head_of(tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> LinearHead:
    """Raises TypeError and ValueError for values that do not belong together."""
    backbone, held_out, names = values.pop("backbone"), values.pop("held_out"), values.pop("class_names")
    head = LinearHead(
        weight=tensors["weight"],
        bias=tensors["bias"],
        **values,
        class_names=tuple(names),
        backbone=Backbone(**backbone),
        held_out=None if held_out is None else HeldOut(**held_out),
    )
    shapes = list(head.weight.shape[:1]), list(head.bias.shape)
    if head.weight.ndim != 2 or shapes != ([len(set(names))], [len(names)]):
        raise ValueError(f"weights {list(head.weight.shape)} and {list(head.bias.shape)} for {len(names)} classes")
    if not all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in tensors.values()):
        raise ValueError("weights that are not finite numbers of float32")
    return head


class HeadedModel(torch.nn.Module):
    """A backbone with another head, that can be used as a model of timm's."""

    def __init__(self, backbone: torch.nn.Module, source: TokenSource, weight: torch.Tensor, bias: torch.Tensor):
        """`source`: of the backbone's tokens, C channels each. `weight` [K, C], `bias` [K]."""
        super().__init__()
        self.backbone, self._source = backbone, source
        self.num_classes = len(bias)
        self.own_head = torch.nn.Linear(*weight.T.shape)
        self.own_head.load_state_dict({"weight": weight, "bias": bias})
        self.eval().requires_grad_(False)

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images [B, 3, H, W] -> tokens [B, h, w, C]."""
        return self._source.tokens(images)

    def forward_head(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [B, h, w, C] -> logits [B, K]."""
        logits: torch.Tensor = self.own_head(tokens.mean((1, 2)))
        return logits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images [B, 3, H, W] -> logits [B, K]."""
        return self.forward_head(self.forward_features(images))

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """The backbone's stages, under their names in this model."""
        stages = getattr(self.backbone, "feature_info", None) or ()
        return [{**stage, "module": f"backbone.{stage['module']}"} for stage in stages]

    def get_submodule(self, target: str) -> torch.nn.Module:
        """By its name here, or the name that it has in the backbone."""
        try:
            return super().get_submodule(target)
        except AttributeError:
            return self.backbone.get_submodule(target)

    def __getattr__(self, name: str) -> Any:
        """What a model of timm's says of itself, such as `pretrained_cfg`."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("backbone"), name)


def put_head(model: torch.nn.Module, head: LinearHead, digest: str, input_size: tuple[int, int]) -> HeadedModel:
    """The model, whose weights have this digest, with the head in the place of its own.

    Raises TeacherError for a head that was fitted on other weights, or on other features of these.
    """
    fitted = head.backbone
    remedy = "give the --teacher and weights that it was fitted on, or fit a head again on these"
    if fitted.digest != digest:
        raise TeacherError(
            f"--head: expected one that was fitted on this teacher's weights ({digest}), found one of {fitted.name} "
            f"({fitted.digest}); {remedy}"
        )
    source = find_tokens(model, input_size)
    if str(source) != fitted.tokens:
        raise TeacherError(
            f"--head: expected one that was fitted on the teacher's features ({source}), found one on others "
            f"({fitted.tokens}); {remedy}, with the same --model-arg and --input-size"
        )
    return HeadedModel(model, source, head.weight, head.bias)


@torch.no_grad()
def find_tokens(model: torch.nn.Module, input_size: tuple[int, int]) -> TokenSource:
    """Where the tokens are for a head of one's own: on the route to the model's own logits, where it has one.

    Else, as with a head that reads the class token, they are its features in that layout whose order is most like
    the image's. Raises TeacherError where there is none, or the model cannot run at this size.
    """
    try:
        route = choose_route(model, input_size)
        if isinstance(route, Route):
            return route.source
        images = probe_images(input_size, flat=False)
        features = model.forward_features(images)  # type: ignore[operator]
        layouts = [layout for layout in possible_layouts(features, input_size) if max(layout.grid) > 1]
        sources = [HeadSource(model, layout) for layout in layouts]
        orders = [check_reading_order(source, input_size, source.layout.split(features)) for source in sources]
    except (AttributeError, AssertionError, RuntimeError, NotImplementedError) as error:
        raise TeacherError(f"teacher: cannot run at {input_size}: {first_line(error)}") from error
    fitting = [(order.locality, source) for order, source in zip(orders, sources, strict=True) if not order.problem]
    if not fitting:
        found = orders[0].problem if orders else "none"
        raise TeacherError(
            "teacher: expected a grid of features [B, C, h, w], [B, h, w, C] or [B, tokens, C] in reading order, "
            f"found {found}; give another --teacher or a larger --input-size"
        )
    return max(fitting, key=lambda pair: pair[0])[1]
