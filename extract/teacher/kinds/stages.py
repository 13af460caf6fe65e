"""The stages of a model that kind `cam` reads: which ones, how their outputs are laid out and where their tokens look.

Maps are made of the *fused* stages. Of the *compared* ones, some of them finer, only the features are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from extract.errors import TeacherError
from extract.teacher.tokens.centres import WHOLE, TokenView, measure_token_view, view_at_size
from extract.teacher.tokens.token_sources import TokenLayout, possible_layouts

MOST_STAGES = 4  # the last of timm's list
MOST_BLOCKS = 8  # of a transformer, evenly from the first to the last: its early blocks are no finer than its late ones
LEAST_STRIDE = 8  # px, of fused stages: finer ones cost more and see edges rather than objects
COMPARED_STRIDES = range(4, 17)  # px: colours and edges, and things; coarser tokens cover two of these

Size = tuple[int, int]  # height and width in px


class Seen(NamedTuple):
    """What a stage gave in one pass: its output, in the graph, and the part (x0, y0, x1, y1) of the input it covers."""

    output: torch.Tensor
    layout: TokenLayout
    rectangle: tuple[float, float, float, float]

    def tokens(self, values: torch.Tensor) -> torch.Tensor:
        """Values in the output's shape -> float32 [B, C, h, w]."""
        return self.layout.split(values.float()).movedim(3, 1)

    def on(self, grid: tuple[int, int], values: torch.Tensor) -> torch.Tensor:
        """Values [B, C, h, w] of the tokens -> [B, C, *grid], even cells of the whole input."""
        return resampled(values, self.rectangle, grid)


class Stages:
    """The stages of one model: `names`, those that are fused, and `compared`, those whose features are read."""

    def __init__(self, model: torch.nn.Module, fused: Sequence[str] | None, size: Size, *, compare: bool):
        """`model`: on the CPU; `fused`: None, those of `usual_stages`. Raises TeacherError."""
        self._model, self._size = model, size
        self.names = usual_stages(model) if fused is None else list(fused)
        known = (*self.names, *(_strides(model) if compare else ()))
        self._modules = {name: _module_of(model, name) for name in dict.fromkeys(known)}
        self.compared: list[str] = []
        self._layouts = self.layouts_at(size)
        if compare:
            self.compared = self._to_compare()
        self._modules = {
            name: module for name, module in self._modules.items() if name in (*self.names, *self.compared)
        }
        self._views = dict(self._measured())

    @property
    def problem(self) -> str:
        """Why it is a guess where the tokens of some stage look, or ""."""
        return next((view.problem for view in self._views.values() if view.problem), "")

    def look(self, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, Seen]]:
        """Normalised images [B, 3, H, W] -> logits [B, K] and what each stage gave; gradients of fused ones only."""
        size = images.shape[2], images.shape[3]
        logits, outputs = self._run(images)
        return logits, {name: self._seen(name, outputs[name], size) for name in self._views}

    def layouts_at(self, size: Size) -> dict[str, TokenLayout]:
        """Of all stages in use, for an input of this size; of others, those whose output is a map of tokens."""
        outputs, used = self._run(torch.zeros(1, 3, *size))[1], {*self.names, *self.compared}
        return {
            name: _layout_of(name, output, size)
            for name, output in outputs.items()
            if name in used or _grids(output, size)
        }

    def _to_compare(self) -> list[str]:
        """Of each grid of COMPARED_STRIDES the last stage; the finest of all where there is none."""
        pitches = {name: round(self._size[0] / layout.grid[0]) for name, layout in self._layouts.items()}
        fitting = {self._layouts[name].grid: name for name, pitch in pitches.items() if pitch in COMPARED_STRIDES}
        return sorted(fitting.values(), key=pitches.__getitem__) or [min(pitches, key=pitches.__getitem__)]

    def _seen(self, name: str, output: torch.Tensor, size: Size) -> Seen:
        layout = _layout_of(name, output, size)
        own = self._layouts[name].grid
        return Seen(output, layout, view_at_size(self._views[name], own, self._size, layout.grid, size))

    def _run(self, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Logits [B, K] and the stages' outputs; gradients are kept from the first fused one on."""
        seen: dict[str, torch.Tensor] = {}

        def keep(name: str, output: Any) -> Any:
            one = isinstance(output, torch.Tensor)
            if name not in self.names:
                if one:
                    seen[name] = output.detach()
                return output
            if not one:
                found = type(output).__name__
                raise TeacherError(f"--cam-stage {name}: expected a stage with one output, found {found}")
            seen[name] = output if seen.keys() & {*self.names} else output.detach().requires_grad_()
            return seen[name]

        handles = [
            module.register_forward_hook(lambda _module, _inputs, output, name=name: keep(name, output))
            for name, module in self._modules.items()
        ]
        try:
            logits: torch.Tensor = self._model(images)
        finally:
            for handle in handles:
                handle.remove()
        for name in self.names:
            if name not in seen:
                raise TeacherError(f"--cam-stage {name}: expected a module that the model runs, found that it does not")
        return logits.float(), seen

    def _measured(self) -> Iterator[tuple[str, TokenView]]:
        """Where the tokens of the stages in use look; those of a transformer's blocks where its patches are: once."""
        known: dict[TokenLayout, TokenView] = {}
        for name in dict.fromkeys((*self.names, *self.compared)):
            layout = self._layouts[name]
            view = known.get(layout) or self._measured_view(self._modules[name], layout)
            if layout.name == "NLC":
                known[layout] = view
            yield name, view

    def _measured_view(self, module: torch.nn.Module, layout: TokenLayout) -> TokenView:
        def tokens(images: torch.Tensor) -> torch.Tensor:
            seen: list[torch.Tensor] = []
            handle = module.register_forward_hook(lambda *args: seen.append(args[2]))
            try:
                self._model(images)
            finally:
                handle.remove()
            return layout.split(seen[-1])

        return measure_token_view(tokens, layout.grid, self._size)


def usual_stages(model: torch.nn.Module) -> list[str]:
    """The last of timm's list from stride LEAST_STRIDE on; of a list with one stride, a transformer's, evenly."""
    strides = {name: stride for name, stride in _strides(model).items() if stride >= LEAST_STRIDE}
    if not strides:
        raise TeacherError("--kind cam: expected a model that lists its stages, found none; name some with --cam-stage")
    names = list(strides)
    if len(set(strides.values())) > 1:
        return names[-MOST_STAGES:]
    count = min(MOST_BLOCKS, len(names))
    return [names[round(step * (len(names) - 1) / max(1, count - 1))] for step in range(count)]


def _strides(model: torch.nn.Module) -> dict[str, int]:
    """Of the stages in timm's list, px by name."""
    modules = dict(model.named_modules())
    listed = getattr(model, "feature_info", None) or ()
    return {stage["module"]: stage["reduction"] for stage in listed if stage["module"] in modules}


def resampled(maps: torch.Tensor, rectangle: Sequence[float], grid: tuple[int, int]) -> torch.Tensor:
    """Maps [B, C, h, w] over a rectangle of the input's unit square, on a grid over all of it: bilinear."""
    h, w = maps.shape[2:]
    coarse = min(h, grid[0]), min(w, grid[1])
    maps = functional.adaptive_avg_pool2d(maps, coarse)
    if coarse == grid and tuple(rectangle) == WHOLE:
        return maps
    x0, y0, x1, y1 = rectangle
    across, down = ((torch.arange(n, device=maps.device) + 0.5) / n for n in (grid[1], grid[0]))
    x, y = 2 * (across - x0) / (x1 - x0) - 1, 2 * (down - y0) / (y1 - y0) - 1
    at = torch.stack((x.expand(grid), y[:, None].expand(grid)), 2).to(maps.dtype)
    return functional.grid_sample(maps, at.expand(len(maps), -1, -1, -1), padding_mode="border", align_corners=False)


def _module_of(model: torch.nn.Module, name: str) -> torch.nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        children = ", ".join(child for child, _ in model.named_children())
        raise TeacherError(f"--cam-stage {name}: expected a module of the model, such as {children}") from error


def _grids(output: torch.Tensor, input_size: Size) -> list[TokenLayout]:
    return [layout for layout in possible_layouts(output, input_size) if min(layout.grid) > 1]


def _layout_of(name: str, output: torch.Tensor, input_size: Size) -> TokenLayout:
    """NCHW or NHWC by the aspect and, of a square, by the rule that channels are more than rows."""
    layouts = _grids(output, input_size)
    if not layouts:
        raise TeacherError(f"--cam-stage {name}: expected a map of tokens, found {tuple(output.shape)}; name another")
    height, width = input_size
    return min(layouts, key=lambda layout: abs(layout.grid[0] * width - layout.grid[1] * height))
