"""From the teacher's grid to the student's tokens, by area.

Each cell of a teacher map carries its evidence as mass, spread evenly over the cell's rectangle in image
space (the unit square of the decoded image, x right, y down). A token's value is the mass inside the part of
the image that the token shows. So nothing is lost or invented: tokens that tile the teacher's view hold the
map's whole mass, and a crop's tokens add up to the share of the evidence that the crop holds.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional

from tokenmix_loader.shapes import Grid, require_grid, require_shape


def align(
    evidence: torch.Tensor,
    views: torch.Tensor,
    affines: torch.Tensor,
    grid: Grid,
    *,
    bounds: torch.Tensor | None = None,
    samples: int = 2,
) -> torch.Tensor:
    """Resample teacher maps onto the tokens of the network's input.

    `evidence` [B, h, w] >= 0 is mass per cell; `views` [B, 4] holds (x0, y0, x1, y1), the rectangle that the
    map covers in image space; `affines` [B, 2, 3] maps the input's unit square to image space, `(x, y) =
    affine @ (u, v, 1)`; `grid` is (gh, gw); `bounds` [B, 4], the part of the image that the input may show, default:
    all of it, (0, 0, 1, 1). All tensors on one device. Returns float32 [B, gh, gw].

    Exact for affines that scale, flip, move or turn by 90 degrees; otherwise each token is sampled at
    `samples` x `samples` points. Straight and oblique affines may share a batch. What a token shows from
    outside of the bounds or of the view counts zero. A padded view may reach outside of the image: its cells
    keep their full rectangle, so the part of a border cell's mass that lies over the padding is seen by no
    token.

    Raises ValueError for shapes that do not match, an empty view or a non-finite affine.
    """
    if bounds is None:
        bounds = torch.tensor([0.0, 0, 1, 1], device=views.device).expand(len(views), 4)
    _check(evidence, views, affines, bounds, grid)
    # Boxes as (near, far) edges per axis, x first.
    spans, limits = (boxes.double().reshape(-1, 2, 2).mT for boxes in (views, bounds))
    batch = _Batch(evidence.float(), affines.double(), spans, limits)
    upright = (affines[:, 0, 1] == 0) & (affines[:, 1, 0] == 0)
    turned = (affines[:, 0, 0] == 0) & (affines[:, 1, 1] == 0) & ~upright
    oblique = ~(upright | turned)
    # Most crops are upright: it is cheaper to do the others twice than to gather the maps of these.
    tokens = _upright(batch, grid)
    if turned.any():
        tokens[turned] = _upright(batch.of(turned).transposed(), grid)
    if oblique.any():
        tokens[oblique] = _sampled(batch.of(oblique), grid, samples)
    return tokens


def refine(evidence: torch.Tensor) -> torch.Tensor:
    """Cut every cell in four: float32 [B, h, w] >= 0 to [B, 2h, 2w].

    A cell keeps its mass, and leans it towards its heavier neighbours: by an eighth of their difference along
    each axis, at most all of it. So an object's border lies within a cell and not at its edge, which takes a
    third off the error of an ideal map's scores (`benchmarks/geometry.py`).
    """
    require_shape("refine: evidence", evidence, (None, None, None), "pass one map per sample, [B, h, w]")
    return _halve(_halve(evidence.float()).mT).mT


def _halve(maps: torch.Tensor) -> torch.Tensor:
    """Cut the last axis: [B, h, w] to [B, h, 2w]."""
    half = maps / 2
    beside = functional.pad(maps, (1, 1), mode="replicate")
    lean = (beside[..., 2:] - beside[..., :-2]).div_(8)
    lean = torch.minimum(torch.maximum(lean, -half, out=lean), half, out=lean)
    halves = torch.empty(*maps.shape, 2, device=maps.device)
    torch.sub(half, lean, out=halves[..., 0])
    torch.add(half, lean, out=halves[..., 1])
    return halves.flatten(-2)


class _Batch(NamedTuple):
    """`maps` [B, h, w]; `affines` [B, 2, 3]; `spans` and `limits` [B, 2, 2]: along x and y, the near and far edge
    of the view and of the bounds."""

    maps: torch.Tensor
    affines: torch.Tensor
    spans: torch.Tensor
    limits: torch.Tensor

    def of(self, chosen: torch.Tensor) -> _Batch:
        return _Batch(*(part[chosen] for part in self))

    def transposed(self) -> _Batch:
        """x and y of map, view and image swapped, which turns a quarter-turned sample upright."""
        return _Batch(self.maps.mT, self.affines.flip(1), self.spans.flip(1), self.limits.flip(1))


def _upright(batch: _Batch, grid: Grid) -> torch.Tensor:
    """Exact overlap: separable, because tokens and cells are rectangles of one orientation."""
    h, w = batch.maps.shape[1:]
    rows = _overlap(batch.affines[:, 1, 1:], batch.spans[:, 1], batch.limits[:, 1], grid[0], h)
    columns = _overlap(batch.affines[:, 0, ::2], batch.spans[:, 0], batch.limits[:, 0], grid[1], w)
    return rows @ batch.maps @ columns.mT


def _overlap(lines: torch.Tensor, spans: torch.Tensor, limits: torch.Tensor, tokens: int, cells: int) -> torch.Tensor:
    """Share of each cell that lies in each token, along one axis: float32 [B, tokens, cells].

    `lines` [B, 2] are (scale, offset) of the affine, `spans` [B, 2] are (near, far) edges of the view, `limits`
    [B, 2] those of the bounds.
    """
    scale, offset = lines[:, :1], lines[:, 1:]
    near, far = spans[:, :1], spans[:, 1:]
    edges = torch.linspace(0, 1, tokens + 1, dtype=lines.dtype, device=lines.device)
    visible = (scale * edges + offset).clamp(limits[:, :1], limits[:, 1:])
    in_cells = ((visible - near) / (far - near) * cells).float()
    # How much of each cell lies before each token edge; neighbouring edges differ by what lies between them.
    before = (in_cells[..., None] - torch.arange(cells, device=lines.device)).clamp_(0, 1)
    return before.diff(dim=1).abs_()


def _sampled(batch: _Batch, grid: Grid, samples: int) -> torch.Tensor:
    """Mean density of the mass at points within each token, times the token's area."""
    maps, affines, spans, limits = batch
    h, w = maps.shape[1:]
    x, in_x = _cells(affines[:, 0], spans[:, 0], limits[:, 0], w, grid, samples)
    y, in_y = _cells(affines[:, 1], spans[:, 1], limits[:, 1], h, grid, samples)
    seen = in_x & in_y
    cell = (y * w + x).where(seen, 0).long()
    mass = maps.flatten(1).gather(1, cell.flatten(1)).view_as(seen).where(seen, 0)
    mean = functional.avg_pool2d(mass, samples)
    token_area = torch.det(affines[:, :, :2]).abs() / (grid[0] * grid[1])
    cell_area = (spans[..., 1] - spans[..., 0]).prod(dim=1) / (h * w)
    return mean * (token_area / cell_area).float()[:, None, None]


def _cells(
    lines: torch.Tensor, spans: torch.Tensor, limits: torch.Tensor, cells: int, grid: Grid, samples: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Along one axis, for the points of all tokens: index of the cell, and whether view and bounds hold the point.

    `lines` [B, 3] are the affine's row, `spans` and `limits` [B, 2] the near and far edge of the view and of the
    bounds; returns [B, gh * samples, gw * samples] each.
    """
    near, far = spans[:, :1], spans[:, 1:]
    per_unit = cells / (far - near)
    along_u, along_v, offset = (lines * per_unit).float()[..., None, None].unbind(dim=1)
    start = (near[:, 0] * per_unit[:, 0]).float()[:, None, None]
    low, high = ((limits - near) * per_unit).clamp(0, cells).float()[..., None, None].unbind(dim=1)
    u, v = _midpoints(grid[1] * samples, along_u), _midpoints(grid[0] * samples, along_u)[:, None]
    at = along_u * u + (along_v * v + (offset - start))
    return at.int(), (at >= low) & (at < high)


def _midpoints(count: int, like: torch.Tensor) -> torch.Tensor:
    return (torch.arange(count, dtype=like.dtype, device=like.device) + 0.5) / count


def _check(
    evidence: torch.Tensor, views: torch.Tensor, affines: torch.Tensor, bounds: torch.Tensor, grid: Grid
) -> None:
    require_grid("align: grid", grid)
    require_shape("align: evidence", evidence, (None, None, None), "pass one map per sample, [B, h, w]")
    batch = len(evidence)
    require_shape("align: views", views, (batch, 4), "pass one (x0, y0, x1, y1) per map")
    require_shape("align: affines", affines, (batch, 2, 3), "pass one [2, 3] matrix per map")
    require_shape("align: bounds", bounds, (batch, 4), "pass one (x0, y0, x1, y1) per map")
    if not bool((views[:, 2:] > views[:, :2]).all()):
        raise ValueError(
            "align: views: expected x0 < x1 and y0 < y1, found an empty rectangle; check the store's views"
        )
    if not bool(torch.isfinite(affines).all()):
        raise ValueError("align: affines: expected finite numbers, found inf or nan; check what the transform recorded")
