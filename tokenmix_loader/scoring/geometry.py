"""From the teacher's grid to the student's tokens, by area.

Each cell of a teacher map carries its evidence as mass, spread evenly over the cell's rectangle in image
space (the unit square of the decoded image, x right, y down). A token's value is the mass inside the part of
the image that the token shows. So nothing is lost or invented: tokens that tile the teacher's view hold the
map's whole mass, and a crop's tokens add up to the share of the evidence that the crop holds.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch

from tokenmix_loader.batch import Grid
from tokenmix_loader.compiled.door import as_array, compiled_for
from tokenmix_loader.shapes import require_count, require_grid, require_shape

SAMPLES = 2  # along each side of a token, where it is not straight


def align(
    evidence: torch.Tensor,
    views: torch.Tensor,
    affines: torch.Tensor,
    grid: Grid,
    *,
    bounds: torch.Tensor | None = None,
    refined: bool = False,
    samples: int = SAMPLES,
) -> torch.Tensor:
    """Resample teacher maps onto the tokens of the network's input.

    `evidence` [B, h, w] >= 0 is mass per cell; `views` [B, 4] holds (x0, y0, x1, y1), the rectangle that the
    map covers in image space; `affines` [B, 2, 3] maps the input's unit square to image space, `(x, y) =
    affine @ (u, v, 1)`; `grid` is (gh, gw); `bounds` [B, 4], the part of the image that the input may show, default:
    all of it, (0, 0, 1, 1). All tensors on one device. Returns float32 [B, gh, gw]. `refined` aligns
    `refine(evidence)` at less cost.

    Exact for affines that scale, flip, move or turn by 90 degrees; otherwise each token is sampled at
    `samples` x `samples` points. Straight and oblique affines may share a batch. What a token shows from
    outside of the bounds or of the view counts zero. A padded view may reach outside of the image: its cells
    keep their full rectangle, so the part of a border cell's mass that lies over the padding is seen by no
    token.

    Raises ValueError for shapes that do not match, an empty view and numbers that are not finite.
    """
    if bounds is None:
        bounds = torch.tensor([0.0, 0, 1, 1], device=views.device).expand(len(views), 4)
    samples = require_count("align: samples", samples)
    grid = require_grid("align: grid", grid)
    _check_shapes(evidence, views, affines, bounds)
    if loops := compiled_for(evidence, views, affines, bounds):
        places = [as_array(part, np.float64) for part in (views, affines, bounds)]
        if loops.are_valid(*places):  # otherwise `_check_numbers` below says what is wrong
            maps = as_array(evidence, np.float32)
            return torch.from_numpy(loops.align_arrays(maps, *places, grid, samples, bool(refined)))
    _check_numbers(views, affines, bounds)
    # Boxes as (near, far) edges per axis, x first.
    spans, limits = (boxes.double().reshape(-1, 2, 2).mT for boxes in (views, bounds))
    return _align(_Batch(evidence.float(), affines.double(), spans, limits), grid, samples, refined)


def refine(evidence: torch.Tensor) -> torch.Tensor:
    """Cut every cell in four: float32 [B, h, w] >= 0 to [B, 2h, 2w].

    A cell keeps its mass. Along each axis, an eighth of the difference between its two neighbours is shifted to the
    half at the heavier one, but no more than the other half has. So an object's border lies within a cell and not at
    its edge, which takes a third off the error of an ideal map's scores (`benchmarks/geometry.py`).
    """
    require_shape("refine: evidence", evidence, (None, None, None), "pass one map per sample, [B, h, w]")
    batch, h, w = evidence.shape
    return _cut(evidence.float()).view(batch, 2, h, 2, w).permute(0, 2, 1, 4, 3).reshape(batch, 2 * h, 2 * w)


def _cut(maps: torch.Tensor) -> torch.Tensor:
    """`refine`, but in another order, which copies less: along each axis all near halves, then all far halves."""
    return _halve(_halve(maps, 2), 1)


def _halve(maps: torch.Tensor, dim: int) -> torch.Tensor:
    half = maps / 2
    steps = maps.diff(dim=dim).div_(8)
    shift, cells = torch.zeros_like(maps), maps.shape[dim]
    shift.narrow(dim, 0, cells - 1).add_(steps)
    shift.narrow(dim, 1, cells - 1).add_(steps)
    shift = torch.minimum(torch.maximum(shift, -half), half)
    return torch.cat((half - shift, half + shift), dim)


class _Batch(NamedTuple):
    """`maps` [B, h, w]; `affines` [B, 2, 3]; `spans` and `limits` [B, 2, 2]: along x and y, the near and far edge
    of the view and of the bounds."""

    maps: torch.Tensor
    affines: torch.Tensor
    spans: torch.Tensor
    limits: torch.Tensor

    def of(self, chosen: torch.Tensor) -> _Batch:
        return _Batch(*(part[chosen] for part in self))

    def refined(self, wanted: bool) -> _Batch:
        return self._replace(maps=refine(self.maps)) if wanted else self

    def transposed(self) -> _Batch:
        """x and y of map, view and image swapped, which turns a quarter-turned sample upright."""
        return _Batch(self.maps.mT, self.affines.flip(1), self.spans.flip(1), self.limits.flip(1))


def _align(batch: _Batch, grid: Grid, samples: int, refined: bool) -> torch.Tensor:
    zero = batch.affines == 0
    upright = zero[:, 0, 1] & zero[:, 1, 0]
    turned = zero[:, 0, 0] & zero[:, 1, 1] & ~upright
    # Most crops are upright: it is cheaper to compute the others twice than to copy the maps of these.
    tokens = _upright(batch, grid, refined)
    if not upright.all():
        oblique = ~(upright | turned)
        if turned.any():
            tokens[turned] = _upright(batch.of(turned).refined(refined).transposed(), grid)
        if oblique.any():
            tokens[oblique] = _sampled(batch.of(oblique).refined(refined), grid, samples)
    return tokens


def _upright(batch: _Batch, grid: Grid, refined: bool = False) -> torch.Tensor:
    """Exact overlap: separable, because tokens and cells are rectangles of one orientation."""
    maps = _cut(batch.maps) if refined else batch.maps
    h, w = (_cells(cells, refined, maps.device) for cells in maps.shape[1:])
    rows = _overlap(batch.affines[:, 1, 1:], batch.spans[:, 1], batch.limits[:, 1], grid[0], h)
    columns = _overlap(batch.affines[:, 0, ::2], batch.spans[:, 0], batch.limits[:, 0], grid[1], w)
    return rows @ maps @ columns.mT


@cache
def _cells(count: int, refined: bool, device: torch.device) -> torch.Tensor:
    """Where each cell begins, in cells, in the order of the map: see `_cut`."""
    near = torch.arange(count, dtype=torch.float32, device=device)
    return torch.cat((near[::2], near[1::2])) if refined else near


def _overlap(
    lines: torch.Tensor, spans: torch.Tensor, limits: torch.Tensor, tokens: int, cells: torch.Tensor
) -> torch.Tensor:
    """Share of each cell that lies in each token, along one axis: float32 [B, tokens, cells].

    `lines` [B, 2] are (scale, offset) of the affine, `spans` [B, 2] are (near, far) edges of the view, `limits`
    [B, 2] those of the bounds; `cells` where cells begin, in cells.
    """
    scale, offset = lines[:, :1], lines[:, 1:]
    near, far = spans[:, :1], spans[:, 1:]
    edges = torch.linspace(0, 1, tokens + 1, dtype=lines.dtype, device=lines.device)
    visible = (scale * edges + offset).clamp(limits[:, :1], limits[:, 1:])
    in_cells = ((visible - near) / (far - near) * len(cells)).float()
    # How much of each cell lies before each token edge; neighbouring edges differ by what lies between them.
    before = (in_cells[..., None] - cells).clamp_(0, 1)
    return before.diff(dim=1).abs_()


def _sampled(batch: _Batch, grid: Grid, samples: int) -> torch.Tensor:
    """Mean density of the mass at points within each token, times the token's area."""
    maps, affines, spans, limits = batch
    h, w = maps.shape[1:]
    near, far = spans.unbind(2)
    cells = torch.tensor([w, h], device=maps.device)
    per_unit = cells / (far - near)
    to_cells = affines * per_unit[:, :, None]
    to_cells[:, :, 2] -= near * per_unit
    held = ((limits - near[:, :, None]) * per_unit[:, :, None]).clamp_(min=0).minimum(cells[:, None])
    low, high = held.float()[..., None].unbind(2)
    at = to_cells.float() @ _points(grid, samples, maps.device)
    seen_x, seen_y = ((at >= low) & (at < high)).unbind(1)
    seen = seen_x & seen_y
    x, y = at.floor_().unbind(1)  # whole numbers, as floats: vectorised where int64 is not
    mass = maps.flatten(1).gather(1, (y * w).add_(x).mul_(seen).long()).mul_(seen)
    mean = mass.view(len(maps), samples**2, *grid).mean(dim=1)
    (a, b), (c, d) = (row.unbind(1) for row in affines[:, :, :2].unbind(1))
    cells_in_token = (a * d - b * c).abs() * per_unit.prod(dim=1) / (grid[0] * grid[1])
    return mean * cells_in_token.float()[:, None, None]


@cache
def _points(grid: Grid, samples: int, device: torch.device) -> torch.Tensor:
    """(u, v, 1) of the first point of every token, then of the second, ...: float32 [3, samples**2 * gh * gw]."""
    v, u = ((torch.arange(tokens * samples) + 0.5).view(tokens, samples).T / (tokens * samples) for tokens in grid)
    shape = (samples, samples, *grid)
    points = torch.stack((u[:, None, :].expand(shape), v[:, None, :, None].expand(shape), torch.ones(shape)))
    return points.flatten(1).to(device)


def _check_shapes(evidence: torch.Tensor, views: torch.Tensor, affines: torch.Tensor, bounds: torch.Tensor) -> None:
    require_shape("align: evidence", evidence, (None, None, None), "pass one map per sample, [B, h, w]")
    batch = len(evidence)
    require_shape("align: views", views, (batch, 4), "pass one (x0, y0, x1, y1) per map")
    require_shape("align: affines", affines, (batch, 2, 3), "pass one [2, 3] matrix per map")
    require_shape("align: bounds", bounds, (batch, 4), "pass one (x0, y0, x1, y1) per map")


def _check_numbers(views: torch.Tensor, affines: torch.Tensor, bounds: torch.Tensor) -> None:
    if not bool((views[:, 2:] > views[:, :2]).all()):
        raise ValueError(
            "align: views: expected x0 < x1 and y0 < y1, found an empty rectangle; check the store's views"
        )
    for name, numbers in (("affines", affines), ("bounds", bounds)):
        if not bool(torch.isfinite(numbers).all()):
            raise ValueError(
                f"align: {name}: expected finite numbers, found inf or nan; check what the transform recorded"
            )
