"""Kind cam: LayerCAM (Jiang et al. 2021, equations 4 to 6) at several stages and input scales, fused into one map.

At a stage: relu(d logit / d activation * activation), summed over channels, scaled to 0..1; where activations are
rectified, as the paper has them, that is its relu(gradient) * relu(activation). Deep stages know what belongs to the
label, shallow ones where it ends; a place counts if all of them agree, so they are fused by their geometric mean, as
are input scales and the mirror image. The fused map is spread over tokens that look alike, see spread.py, and so is
that of the label's rivals, the other classes with the largest logits: what speaks for them counts less for the label.
docs/evidence.md has what each part is worth. An image costs one forward and two backward passes per scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn import functional

from extract.errors import TeacherError
from extract.settings import TeacherSpec
from extract.teacher.kinds.base import Kind, top1_of
from extract.teacher.kinds.spread import POWER, STEPS, likeness, spread, transitions
from extract.teacher.kinds.stages import Seen, Size, Stages
from extract.teacher.model import autocast
from extract.teacher.protocol import Maps
from extract.teacher.tokens.centres import WHOLE, TokenView
from store.spec import Json

MOST_CELLS = 28  # along a side of the stored map, unless told otherwise
FLOOR = 1e-12  # of a stage's largest value, so that one stage alone cannot make a place impossible
MOST_RIVALS = 3
RIVALRY = 2.0  # how much a rival's evidence counts against the label's


class _Pass(NamedTuple):
    """What one pass gives, on the stored grid."""

    maps: list[list[torch.Tensor]]  # of the label and of its rivals: every fused stage's, 0..1, [B, h, w]
    alike: torch.Tensor | None  # how alike tokens are, mean over compared stages, [B, cells, cells]
    logits: torch.Tensor  # [B, K]


class Cam(Kind):
    """Needs stages with maps of tokens, and no route; `--compile` would not reach its backward pass."""

    name = "cam"
    datasets = ("label_cam",)
    options = frozenset({"cam_stage", "scales", "cam_grid", "spread", "rivals"})

    def __init__(self, model: torch.nn.Module, spec: TeacherSpec, input_size: Size):
        """As in Kind. Where `spec` has None: usual stages, scale 1, MOST_CELLS, spread, MOST_RIVALS."""
        if spec.compile:
            raise TeacherError("--compile: expected another kind than cam, whose backward pass it leaves as it is")
        self._spec, self._size = spec, input_size
        self._scales = spec.scales or (1.0,)
        named = None if spec.cam_stage is None else spec.cam_stage.split(",")
        self._stages = Stages(model, named, input_size, compare=spec.spread is not False)
        classes = int(model.num_classes)  # type: ignore[arg-type]
        self._rivals = min(MOST_RIVALS if spec.rivals is None else spec.rivals, classes - 1)
        grids = [grid for scale in self._scales for grid in self._grids_at(scale)]
        self.grid = _stored_grid(grids, spec.cam_grid or MOST_CELLS)
        self.token_view = TokenView(WHOLE, self._stages.problem)  # maps are brought to even cells of the input
        self.input_size = _scaled(input_size, max(self._scales))

    def header(self) -> dict[str, Json]:
        """As in Kind. `spread` and `rivals` are absent where there is none, as in stores from before them."""
        stages, compared = ",".join(self._stages.names), ",".join(self._stages.compared)
        route = [f"LayerCAM at {stages}"]
        fields: dict[str, Json] = {"cam_stage": stages}
        if compared:
            route.append(f"{STEPS} steps over tokens alike in {compared} to the power {POWER}")
            fields["spread"] = True
        if self._rivals:
            route.append(f"{self._rivals} rivals times {RIVALRY:g}")
            fields["rivals"] = self._rivals
        if self._spec.cam_grid is not None:
            fields["cam_grid"] = self._spec.cam_grid
        if self._scales != (1.0,):
            fields |= {"scales": list(self._scales), "input_size": list(self._size)}
        return fields | {"route": "; ".join(route)}

    def maps(self, images: torch.Tensor, outputs: torch.Tensor, *, flipped: bool) -> Maps:
        """As in Kind; images are of the largest scale's size. The mirror image's maps are fused with the others.

        The prediction is that at the scale which is next to the input's own size.
        """
        usual = min(self._scales, key=lambda scale: abs(scale - 1))
        passes = [
            (scale, self._pass(images, outputs, _scaled(self._size, scale), mirrored=mirrored))
            for mirrored in (False, True)[: 1 + flipped]
            for scale in self._scales
        ]
        claims = [fuse([m for _, found in passes for m in found.maps[who]]) for who in range(1 + bool(self._rivals))]
        alike = [found.alike for _, found in passes if found.alike is not None]
        if alike:
            transition = transitions(torch.stack(alike).mean(0))
            claims = [spread(maps, transition) for maps in claims]
        return Maps({"label_cam": contested(*claims)}, top1_of([found.logits for s, found in passes if s == usual]))

    def _pass(self, images: torch.Tensor, outputs: torch.Tensor, size: Size, *, mirrored: bool) -> _Pass:
        """Of the images, or their mirror images, brought to this size."""
        images = images.flip(3) if mirrored else images
        if size != tuple(images.shape[2:]):
            images = functional.interpolate(images, size, mode="bicubic", antialias=True)
        with torch.enable_grad():
            with autocast(self._spec):
                logits, seen = self._stages.look(images)
            claims = [logits.gather(1, outputs[:, None]).sum()]
            if self._rivals:
                claims.append(rivals_of(logits, outputs, self._rivals).sum())
        fused = [seen[name] for name in self._stages.names]
        maps = []
        for number, claim in enumerate(claims, 1):
            slopes = torch.autograd.grad(claim, [s.output for s in fused], retain_graph=number < len(claims))
            maps.append([self._placed(*pair, mirrored=mirrored) for pair in zip(fused, slopes, strict=True)])
        compared = [seen[name] for name in self._stages.compared]
        alike = [likeness(_turned(s.on(self.grid, s.tokens(s.output.detach())), mirrored)) for s in compared]
        return _Pass(maps, torch.stack(alike).mean(0) if alike else None, logits.detach())

    def _placed(self, stage: Seen, slope: torch.Tensor, *, mirrored: bool) -> torch.Tensor:
        """LayerCAM of one stage [B, h, w] on the stored grid, scaled to 0..1."""
        found = (stage.tokens(slope) * stage.tokens(stage.output.detach())).relu().sum(1, keepdim=True)
        return _turned(unit(stage.on(self.grid, found)[:, 0]), mirrored)

    def _grids_at(self, scale: float) -> list[tuple[int, int]]:
        size = _scaled(self._size, scale)
        try:
            layouts = self._stages.layouts_at(size)
        except (AssertionError, RuntimeError, TeacherError) as error:
            raise TeacherError(
                f"--scales {scale:g}: expected a model that takes {size[0]} x {size[1]} px, found {error}; leave that "
                "scale out, or see whether --model-arg dynamic_img_size=True helps"
            ) from error
        return [layouts[name].grid for name in self._stages.names]


def rivals_of(logits: torch.Tensor, outputs: torch.Tensor, count: int) -> torch.Tensor:
    """The mean [B] of the `count` largest logits [B, K] of other outputs than these [B]."""
    return logits.scatter(1, outputs[:, None], -torch.inf).topk(count).values.mean(1)


def fuse(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """The geometric mean of maps [B, h, w] of 0..1."""
    return torch.stack([part.clamp_min(FLOOR).log() for part in maps]).mean(0).exp()


def contested(label: torch.Tensor, rivals: torch.Tensor | None = None, *, rivalry: float = RIVALRY) -> torch.Tensor:
    """The label's map [B, h, w] times its share of the evidence there, scaled to a largest value of 1.

    A map that is the same everywhere says nothing, and stays.
    """
    label = unit(label)
    if rivals is None:
        return label
    share = label / (label + rivalry * unit(rivals))
    return torch.where(label.amin((1, 2), keepdim=True) < 1, unit(label * share), label)


def unit(maps: torch.Tensor) -> torch.Tensor:
    """Maps [B, h, w] >= 0 scaled to 0..1; of ones where there is nothing, so that other stages decide."""
    largest = maps.amax((1, 2), keepdim=True)
    return torch.where(largest == 0, 1, maps / largest)


def _turned(values: torch.Tensor, mirrored: bool) -> torch.Tensor:
    """What was found in the mirror image, as it lies in the image."""
    return values.flip(-1) if mirrored else values


def _scaled(size: Size, scale: float) -> Size:
    return round(size[0] * scale), round(size[1] * scale)


def _stored_grid(grids: Sequence[tuple[int, int]], most: int) -> tuple[int, int]:
    """The finest, but at most so many cells along its longer side, in the same aspect."""
    h, w = max(grids)
    coarser = max(h, w, most) / most
    return max(1, round(h / coarser)), max(1, round(w / coarser))
