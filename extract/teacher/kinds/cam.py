"""Kind cam: LayerCAM (Jiang et al. 2021, equations 4 to 6) at several stages and input scales, fused into one map.

At a stage: relu(d logit / d activation * activation), summed over channels, scaled to 0..1; where activations are
rectified, as the paper has them, that is its relu(gradient) * relu(activation). Deep stages know what belongs to the
label, shallow ones where it ends; a place counts if all of them agree, so they are fused by their geometric mean, as
are input scales and the mirror image. The fused map is spread over tokens that look alike, see spread.py.
docs/evidence.md has what each part is worth. All stages of an image cost one forward and one backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from extract.errors import TeacherError
from extract.settings import TeacherSpec
from extract.teacher.kinds.base import Kind, top1_of
from extract.teacher.kinds.spread import spread
from extract.teacher.model import autocast
from extract.teacher.protocol import Maps
from extract.teacher.tokens.centres import WHOLE, TokenView, measure_token_view, view_at_size
from extract.teacher.tokens.token_sources import TokenLayout, possible_layouts
from store.spec import Json

STAGES = 4  # the last of timm's list, of those that are no finer than LEAST_STRIDE; all of a transformer's blocks
LEAST_STRIDE = 8  # px: finer stages cost more and see edges rather than objects
MOST_CELLS = 28  # along a side of the stored map
COMPARED_PX = (
    16  # pitch of the tokens that are compared to spread a map: finer ones show edges, coarser ones cover two things
)
FLOOR = 1e-12  # of a stage's largest value, so that one stage alone cannot make a place impossible


class Stage(NamedTuple):
    """A module of the model, how its output is laid out, and what its grid covers; of the input's own size."""

    name: str
    layout: TokenLayout
    view: TokenView


class _View(NamedTuple):
    """What one pass gives, maps and features on the stored grid."""

    logs: list[torch.Tensor]  # of each stage's map [B, h, w]
    features: torch.Tensor | None  # [B, C, h, w] of the stage that is compared, where maps are spread
    logits: torch.Tensor  # [B, K]


class Cam(Kind):
    """Needs stages with maps of tokens, and no route; `--compile` would not reach its backward pass."""

    name = "cam"
    datasets = ("label_cam",)
    options = frozenset({"cam_stage", "scales", "spread"})

    def __init__(self, model: torch.nn.Module, spec: TeacherSpec, input_size: tuple[int, int]):
        """As in Kind. `spec.cam_stage` None: the last stages of timm's list; `scales` None: 1; `spread` None: yes."""
        if spec.compile:
            raise TeacherError("--compile: expected another kind than cam, whose backward pass it leaves as it is")
        self._model, self._spec, self._size = model, spec, input_size
        self._scales = spec.scales or (1.0,)
        names = _last_stages(model) if spec.cam_stage is None else spec.cam_stage.split(",")
        self._modules = [_module_of(model, name) for name in names]
        layouts = self._layouts(names, input_size)
        views = self._measure_views(layouts)
        self._stages = [Stage(name, layout, views[layout.grid]) for name, layout in zip(names, layouts, strict=True)]
        self._compared = None if spec.spread is False else _compared(layouts, input_size)
        self.grid = _stored_grid([layout.grid for scale in self._scales for layout in self._layouts_at(scale)])
        problem = next((view.problem for view in views.values() if view.problem), "")
        self.token_view = TokenView(WHOLE, problem)  # maps are brought to even cells of the input
        self.input_size = _scaled(input_size, max(self._scales))

    def header(self) -> dict[str, Json]:
        """As in Kind."""
        stages = ",".join(stage.name for stage in self._stages)
        fields: dict[str, Json] = {"route": f"LayerCAM at {stages}, {self._stages[0].layout}", "cam_stage": stages}
        if self._compared is not None:
            fields |= {"spread": True, "route": f"{fields['route']}, spread by {self._stages[self._compared].name}"}
        if self._scales != (1.0,):
            fields |= {"scales": list(self._scales), "input_size": list(self._size)}
        return fields

    def maps(self, images: torch.Tensor, outputs: torch.Tensor, *, flipped: bool) -> Maps:
        """As in Kind; images are of the largest scale's size. The mirror image's maps are fused with the others.

        The prediction is that at the scale which is next to the input's own size.
        """
        passes: list[_View] = []
        usual = min(self._scales, key=lambda scale: abs(scale - 1))
        logits = []
        for mirrored in (False, True)[: 1 + flipped]:
            for scale in self._scales:
                passes.append(self._pass(images.flip(3) if mirrored else images, outputs, _scaled(self._size, scale)))
                if scale == usual:
                    logits.append(passes[-1].logits)
                if mirrored:
                    passes[-1] = _mirrored(passes[-1])
        fused = torch.stack([log for view in passes for log in view.logs]).mean(0).exp()
        features = [view.features for view in passes if view.features is not None]
        if features:
            fused = spread(fused, features)
        largest = fused.amax((1, 2), keepdim=True)
        return Maps({"label_cam": torch.where(largest > FLOOR, fused / largest, 0)}, top1_of(logits))

    def _pass(self, images: torch.Tensor, outputs: torch.Tensor, size: tuple[int, int]) -> _View:
        """Of the images, brought to this size."""
        if size != tuple(images.shape[2:]):
            images = functional.interpolate(images, size, mode="bicubic", antialias=True)
        with torch.enable_grad():
            with autocast(self._spec):
                logits, activations = self._run(images)
            slopes = torch.autograd.grad(logits.gather(1, outputs[:, None]).sum(), activations)
        logs, features = [], None
        for number, (stage, activation, slope) in enumerate(zip(self._stages, activations, slopes, strict=True)):
            layout = _layout_of_stage(stage.name, activation, size)
            rectangle = view_at_size(stage.view, stage.layout.grid, self._size, layout.grid, size)
            activation = activation.detach().float()
            cam = layout.split((slope.float() * activation).relu()).sum(3)
            logs.append(_unit(_resampled(cam[:, None], rectangle, self.grid)[:, 0]).clamp_min(FLOOR).log())
            if number == self._compared:
                features = _resampled(layout.split(activation).movedim(3, 1), rectangle, self.grid)
        return _View(logs, features, logits.detach())

    def _run(self, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Logits [B, K] and the stages' outputs, from the first of which on gradients are kept."""
        seen: dict[int, torch.Tensor] = {}

        def keep(number: int, output: Any) -> torch.Tensor:
            if not isinstance(output, torch.Tensor):
                raise TeacherError(f"--cam-stage: expected a stage with one output, found {type(output).__name__}")
            seen[number] = output if seen else output.detach().requires_grad_()
            return seen[number]

        handles = [
            module.register_forward_hook(lambda _module, _inputs, output, number=number: keep(number, output))
            for number, module in enumerate(self._modules)
        ]
        try:
            logits: torch.Tensor = self._model(images)
        finally:
            for handle in handles:
                handle.remove()
        if len(seen) < len(self._modules):
            raise TeacherError("--cam-stage: expected a module that the model runs, found one that it does not")
        return logits.float(), [seen[number] for number in range(len(self._modules))]

    def _measure_views(self, layouts: Sequence[TokenLayout]) -> dict[tuple[int, int], TokenView]:
        """Where the tokens look, by grid: of its stages the first, for only strides move tokens against the pixels."""
        first = {layout.grid: number for number, layout in reversed(list(enumerate(layouts)))}
        return {grid: self._measure_view(number, layouts[number]) for grid, number in first.items()}

    def _measure_view(self, number: int, layout: TokenLayout) -> TokenView:
        """Where the tokens of a stage look."""

        def tokens(images: torch.Tensor) -> torch.Tensor:
            seen: list[torch.Tensor] = []
            handle = self._modules[number].register_forward_hook(lambda *args: seen.append(args[2]))
            try:
                self._model(images)
            finally:
                handle.remove()
            return layout.split(seen[-1])

        return measure_token_view(tokens, layout.grid, self._size)

    def _layouts(self, names: Sequence[str], size: tuple[int, int]) -> list[TokenLayout]:
        outputs = self._run(torch.zeros(1, 3, *size))[1]
        return [_layout_of_stage(name, output, size) for name, output in zip(names, outputs, strict=True)]

    def _layouts_at(self, scale: float) -> list[TokenLayout]:
        size = _scaled(self._size, scale)
        try:
            return self._layouts([stage.name for stage in self._stages], size)
        except (AssertionError, RuntimeError, TeacherError) as error:
            raise TeacherError(
                f"--scales {scale:g}: expected a model that takes {size[0]} x {size[1]} px, found {error}; leave that "
                "scale out, or see whether --model-arg dynamic_img_size=True helps"
            ) from error


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return round(size[0] * scale), round(size[1] * scale)


def _unit(maps: torch.Tensor) -> torch.Tensor:
    """Maps [B, h, w] scaled to 0..1; of ones where there is nothing, so that the other stages decide."""
    largest = maps.amax((1, 2), keepdim=True)
    return torch.where(largest > 0, maps / largest, 1)


def _mirrored(view: _View) -> _View:
    """What the mirror image's pass gives, as it lies on the image."""
    features = None if view.features is None else view.features.flip(3)
    return _View([log.flip(2) for log in view.logs], features, view.logits)


def _resampled(maps: torch.Tensor, rectangle: Sequence[float], grid: tuple[int, int]) -> torch.Tensor:
    """Maps [B, C, h, w] over a rectangle of the input's unit square, on a grid over all of it: bilinear."""
    h, w = maps.shape[2:]
    coarse = min(h, max(grid[0], 1)), min(w, max(grid[1], 1))
    maps = functional.adaptive_avg_pool2d(maps, coarse)
    if coarse == grid and tuple(rectangle) == WHOLE:
        return maps
    x0, y0, x1, y1 = rectangle
    across, down = ((torch.arange(n, device=maps.device) + 0.5) / n for n in (grid[1], grid[0]))
    x, y = 2 * (across - x0) / (x1 - x0) - 1, 2 * (down - y0) / (y1 - y0) - 1
    at = torch.stack((x.expand(grid), y[:, None].expand(grid)), 2).to(maps.dtype)
    return functional.grid_sample(maps, at.expand(len(maps), -1, -1, -1), padding_mode="border", align_corners=False)


def _compared(layouts: Sequence[TokenLayout], size: tuple[int, int]) -> int:
    """Which stage's tokens tell what looks alike: the last of those whose pitch is nearest to COMPARED_PX."""
    pitches = [max(size[0] / layout.grid[0], size[1] / layout.grid[1]) for layout in layouts]
    return min(reversed(range(len(pitches))), key=lambda number: abs(math.log(pitches[number] / COMPARED_PX)))


def _stored_grid(grids: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The finest, but at most MOST_CELLS along its longer side, in the same aspect."""
    h, w = max(grids)
    most = max(h, w, MOST_CELLS) / MOST_CELLS
    return round(h / most), round(w / most)


def _module_of(model: torch.nn.Module, name: str) -> torch.nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        children = ", ".join(child for child, _ in model.named_children())
        raise TeacherError(f"--cam-stage {name}: expected a module of the model, such as {children}") from error


def _last_stages(model: torch.nn.Module) -> list[str]:
    """STAGES of them; all where they have one grid, as a transformer's blocks, of which early ones are no finer."""
    modules = dict(model.named_modules())
    known = {
        stage["module"]: stage["reduction"]
        for stage in getattr(model, "feature_info", None) or ()
        if stage["module"] in modules and stage["reduction"] >= LEAST_STRIDE
    }
    if not known:
        raise TeacherError("--kind cam: expected a model that lists its stages, found none; name some with --cam-stage")
    return list(known) if len(set(known.values())) == 1 else list(known)[-STAGES:]


def _layout_of_stage(name: str, output: torch.Tensor, input_size: tuple[int, int]) -> TokenLayout:
    """NCHW or NHWC by the aspect and, of a square, by the rule that channels are more than rows."""
    layouts = [layout for layout in possible_layouts(output, input_size) if min(layout.grid) > 1]
    if not layouts:
        raise TeacherError(f"--cam-stage {name}: expected a map of tokens, found {tuple(output.shape)}; name another")
    height, width = input_size
    return min(layouts, key=lambda layout: abs(layout.grid[0] * width - layout.grid[1] * height))
