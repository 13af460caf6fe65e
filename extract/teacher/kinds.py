"""What is computed per image: one function per kind, from tokens or from a stage of the model to the payload."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch

from extract.errors import TeacherError
from extract.teacher.routes import Route
from extract.teacher.token_sources import Layout, possible_layouts

MAX_LOGITS = 1 << 26  # of kind topk, held at once: 256 MB of float32
Payload = dict[str, torch.Tensor]


class Maps(NamedTuple):
    """Of B images: the payload by dataset, each [B, ..., h, w], and the teacher's top-1 [B]; see docs/format.md."""

    payload: Payload
    prediction: torch.Tensor


class Kind(Protocol):
    """How to get a kind's maps out of one model."""

    grid: tuple[int, int]
    depth: int
    route: str

    def maps(self, images: torch.Tensor, labels: torch.Tensor, *, flipped: bool) -> Maps:
        """Normalised images [B, 3, H, W], labels [B] -> float32 maps; `flipped`: averaged with the mirror image's."""


class TokenKind:
    """Kinds label, topk, activation and features: of the tokens before the pooling.

    label: the label's logit. topk: the k largest logits, their classes, and logsumexp over all. activation: the
    L2 norm over channels. features: the channels themselves.
    """

    def __init__(self, name: str, route: Route, features: Callable[[torch.Tensor], torch.Tensor], top_k: int = 1):
        """`features`: images [B, 3, H, W] -> tokens [B, h, w, C], as `route.tokens`, or faster."""
        self.grid, self.route = route.grid, str(route)
        self.depth = {"topk": top_k, "features": route.channels}.get(name, 1)
        self._route, self._features = route, features
        self._make = {"label": self._label, "topk": self._topk, "activation": self._activation}.get(name, self._raw)

    def maps(self, images: torch.Tensor, labels: torch.Tensor, *, flipped: bool) -> Maps:
        """As in Kind."""
        views = [self._features(images).float()]
        if flipped:
            views.append(self._features(images.flip(3)).float().flip(2))
        return self._make(views, labels)

    def _label(self, views: Sequence[torch.Tensor], labels: torch.Tensor) -> Maps:
        found = [self._route.label_logits(tokens, labels) for tokens in views]
        return Maps({"label_logit": _mean([label for label, _ in found])}, _top1([image for _, image in found]))

    def _topk(self, views: Sequence[torch.Tensor], labels: torch.Tensor) -> Maps:
        del labels
        h, w = self.grid
        classes = self._route.source.tail(views[0][:1, 0, 0]).shape[1]
        at_once = max(1, MAX_LOGITS // (h * w * classes))
        parts = [self._topk_of(part) for part in zip(*(torch.split(view, at_once) for view in views), strict=True)]
        logits, numbers, total, prediction = (torch.cat(column) for column in zip(*parts, strict=True))
        return Maps({"topk_logit": logits, "topk_class": numbers, "logsumexp": total}, prediction)

    def _topk_of(self, views: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        logits = _mean([self._route.all_logits(tokens) for tokens in views])
        largest, numbers = logits.topk(self.depth, dim=3)
        planes = largest.permute(0, 3, 1, 2), numbers.to(torch.int32).permute(0, 3, 1, 2)
        return *planes, logits.logsumexp(3), logits.mean((1, 2)).argmax(1)

    def _activation(self, views: Sequence[torch.Tensor], labels: torch.Tensor) -> Maps:
        del labels
        return Maps({"activation": _mean([tokens.norm(dim=3) for tokens in views])}, self._top1_of(views))

    def _raw(self, views: Sequence[torch.Tensor], labels: torch.Tensor) -> Maps:
        del labels
        return Maps({"features": _mean(views).permute(0, 3, 1, 2)}, self._top1_of(views))

    def _top1_of(self, views: Sequence[torch.Tensor]) -> torch.Tensor:
        anyone = torch.zeros(len(views[0]), dtype=torch.int64, device=views[0].device)
        return _top1([self._route.label_logits(tokens, anyone)[1] for tokens in views])


class CamKind:
    """Kind cam: LayerCAM (Jiang et al. 2021, equations 4 to 6, without the last ReLU, which changes nothing).

    relu(d logit / d activation) * relu(activation), summed over channels, times the number of tokens, so that
    pooling over a finer grid does not make it smaller. One pass back from the logits to the stage.
    """

    depth = 1

    def __init__(
        self,
        model: torch.nn.Module,
        stage: str | None,
        input_size: tuple[int, int],
        forward: Callable[..., torch.Tensor],
    ):
        """`stage`: a module's name; None: the last stage but one of timm's list. `forward`: the model, or faster.

        Raises TeacherError for a stage that cannot be used.
        """
        self._forward: Callable[..., torch.Tensor] = model
        name = _find_stage(model) if stage is None else stage
        try:
            self._stage = model.get_submodule(name)
        except AttributeError as error:
            children = ", ".join(child for child, _ in model.named_children())
            raise TeacherError(f"--cam-stage {name}: expected a module of the model, such as {children}") from error
        seen = self._run(torch.zeros(1, 3, *input_size))[1]
        self._layout = _layout_of_stage(name, seen, input_size)
        self.grid, self.route = self._layout.grid, f"LayerCAM at {name}, {self._layout}"
        self._forward = forward

    def maps(self, images: torch.Tensor, labels: torch.Tensor, *, flipped: bool) -> Maps:
        """As in Kind."""
        found = [self._cam(images, labels)]
        if flipped:
            cam, logits = self._cam(images.flip(3), labels)
            found.append((cam.flip(2), logits))
        return Maps({"label_cam": _mean([cam for cam, _ in found])}, _top1([logits for _, logits in found]))

    def _cam(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.enable_grad():
            logits, stage = self._run(images)
            label = logits.gather(1, labels[:, None])
            slope = torch.autograd.grad(label.sum(), stage)[0]
        h, w = self.grid
        weighted = slope.float().relu() * stage.detach().float().relu() * (h * w)
        return self._layout.split(weighted).sum(3), logits.detach()

    def _run(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [B, K] and the stage's output, from which on gradients are kept."""
        seen: list[torch.Tensor] = []

        def cut(_module: torch.nn.Module, _inputs: Any, output: Any) -> torch.Tensor:
            if not isinstance(output, torch.Tensor):
                raise TeacherError(f"--cam-stage: expected a stage with one output, found {type(output).__name__}")
            seen.append(output.detach().requires_grad_())
            return seen[-1]

        handle = self._stage.register_forward_hook(cut)
        try:
            logits = self._forward(images)
        finally:
            handle.remove()
        if not seen:
            raise TeacherError("--cam-stage: expected a module that the model runs, found one that it does not")
        return logits.float(), seen[-1]


def _find_stage(model: torch.nn.Module) -> str:
    modules: Mapping[str, torch.nn.Module] = dict(model.named_modules())
    listed: list[str] = [stage["module"] for stage in getattr(model, "feature_info", None) or ()]
    known = [name for name in listed if name in modules]
    if len(known) < 2:
        raise TeacherError("--kind cam: expected a model that lists its stages, found none; name one with --cam-stage")
    return known[-2]


def _layout_of_stage(name: str, output: torch.Tensor, input_size: tuple[int, int]) -> Layout:
    """NCHW or NHWC by the aspect and, of a square, by the rule that channels are more than rows."""
    layouts = [layout for layout in possible_layouts(output, input_size) if min(layout.grid) > 1]
    if not layouts:
        raise TeacherError(f"--cam-stage {name}: expected a map of tokens, found {tuple(output.shape)}; name another")
    height, width = input_size
    return min(layouts, key=lambda layout: abs(layout.grid[0] * width - layout.grid[1] * height))


def _mean(views: Sequence[torch.Tensor]) -> torch.Tensor:
    return views[0] if len(views) == 1 else torch.stack(tuple(views)).mean(0)


def _top1(logits: Sequence[torch.Tensor]) -> torch.Tensor:
    return _mean(logits).argmax(1)
