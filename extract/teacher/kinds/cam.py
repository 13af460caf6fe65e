"""Kind cam: LayerCAM (Jiang et al. 2021, equations 4 to 6, without the last ReLU, which changes nothing).

relu(d logit / d activation) * relu(activation), summed over channels, times the number of tokens, so that
pooling over a finer grid does not make it smaller. One backward pass from the logits to the stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from extract.errors import TeacherError
from extract.settings import TeacherSpec
from extract.teacher.kinds.base import Kind, mean_of, top1_of
from extract.teacher.model import autocast
from extract.teacher.protocol import Maps
from extract.teacher.tokens.token_sources import TokenLayout, possible_layouts
from store.spec import Json


class Cam(Kind):
    """Needs a stage with a map of tokens, and no route; `--compile` would not reach its backward pass."""

    name = "cam"
    datasets = ("label_cam",)
    options = frozenset({"cam_stage"})

    def __init__(self, model: torch.nn.Module, spec: TeacherSpec, input_size: tuple[int, int]):
        """As in Kind; `spec.cam_stage` None: the last stage but one of timm's list."""
        if spec.compile:
            raise TeacherError("--compile: expected another kind than cam, whose backward pass it leaves as it is")
        self._model, self._spec = model, spec
        self._name = _find_stage(model) if spec.cam_stage is None else spec.cam_stage
        try:
            self._stage = model.get_submodule(self._name)
        except AttributeError as error:
            children = ", ".join(child for child, _ in model.named_children())
            raise TeacherError(
                f"--cam-stage {self._name}: expected a module of the model, such as {children}"
            ) from error
        stage = self._run(torch.zeros(1, 3, *input_size))[1]
        self._layout = _layout_of_stage(self._name, stage, input_size)
        self.grid = self._layout.grid

    def header(self) -> dict[str, Json]:
        """As in Kind."""
        return {"route": f"LayerCAM at {self._name}, {self._layout}", "cam_stage": self._name}

    def maps(self, images: torch.Tensor, outputs: torch.Tensor, *, flipped: bool) -> Maps:
        """As in Kind."""
        found = [self._cam(images, outputs)]
        if flipped:
            cam, logits = self._cam(images.flip(3), outputs)
            found.append((cam.flip(2), logits))
        return Maps({"label_cam": mean_of([cam for cam, _ in found])}, top1_of([logits for _, logits in found]))

    def _cam(self, images: torch.Tensor, outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.enable_grad():
            with autocast(self._spec):
                logits, stage = self._run(images)
            chosen = logits.gather(1, outputs[:, None])
            slope = torch.autograd.grad(chosen.sum(), stage)[0]
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
            logits: torch.Tensor = self._model(images)
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


def _layout_of_stage(name: str, output: torch.Tensor, input_size: tuple[int, int]) -> TokenLayout:
    """NCHW or NHWC by the aspect and, of a square, by the rule that channels are more than rows."""
    layouts = [layout for layout in possible_layouts(output, input_size) if min(layout.grid) > 1]
    if not layouts:
        raise TeacherError(f"--cam-stage {name}: expected a map of tokens, found {tuple(output.shape)}; name another")
    height, width = input_size
    return min(layouts, key=lambda layout: abs(layout.grid[0] * width - layout.grid[1] * height))
