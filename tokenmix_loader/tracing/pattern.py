"""A test image whose places can be told apart, and a measure of whether a result shows them where they should be.

The image has two colours, or hardly more. So whatever a step does to colours alone, each channel of its result is a
linear function of the pattern, which correlates with it at the right place and at no other, in spite of jitter, blur,
noise or erasing.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn import functional

Colours = tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]]
Place = npt.NDArray[np.float64]  # affine and bounds, as TracedTransform.placed returns them

GRID = 48  # cells per side, about, into which a result is averaged
SPOTS = (1 / 8, 1 / 16, 1 / 32)  # sizes of the spots in a side of the image: results show all of it or a tenth
NEIGHBOURHOOD = 9  # cells per side whose mean is subtracted from a cell: so what is larger, as a shadow, has no effect
FINE = 2  # points per side of a cell at which the pattern is sampled


class Match(NamedTuple):
    """How clearly a result shows the pattern.

    `here` and `anywhere` are heights of the correlation at the place that is asked about and at the best of all
    others it could be shifted to, in standard deviations over all shifts: what is not there is below 5. `off_px` is how
    far away from where it should be the result shows the pattern, in the mean over its pixels; it means nothing where
    `here` is low. `cells` is the number of cells of the result, `inside` that of those that show the image, `side_px`
    the result's longer side.
    """

    here: float
    anywhere: float
    off_px: float
    cells: int
    inside: int
    side_px: int


class Pattern(NamedTuple):
    """A test image: its size in px and a seed."""

    width: int
    height: int
    seed: int

    def image(self, colours: Colours) -> Image.Image:
        """RGB: the background, the spots and the middle of some of them, which may have the colour of the spots."""
        height = _noise(self)
        level = (height > 0).int() + (height > height.quantile(0.9)).int()
        return Image.fromarray(np.array(colours, np.uint8)[level.numpy()])


@lru_cache(maxsize=32)
def _noise(pattern: Pattern) -> torch.Tensor:
    """Smooth noise of several scales [height, width], above 0 in one half of its pixels: there is a spot."""
    generator = torch.Generator().manual_seed(pattern.seed)
    noise = torch.zeros(1, 1, pattern.height, pattern.width)
    for share in SPOTS:
        step = share * max(pattern.width, pattern.height)
        size = int(pattern.height / step) + 3, int(pattern.width / step) + 3
        coarse = torch.randn(1, 1, *size, generator=generator)
        noise += functional.interpolate(coarse, noise.shape[2:], mode="bicubic")
    return (noise - noise.median())[0, 0]


def match(result: Any, place: Place, pattern: Pattern) -> Match | None:
    """How clearly `result` shows the pattern where `place` says; None where it shows nothing at all.

    `result`: an image, an array [H, W] or [H, W, C] or a tensor [C, H, W]. Raises TypeError for anything else.
    """
    pixels = as_channels(result)
    rows, columns = pixels.shape[1:]
    cell = max(1, round(max(rows, columns) / GRID))
    shown = functional.avg_pool2d(pixels[None], min(cell, rows, columns))[0]
    expected, inside = _expected(shown, (columns, rows), cell, place, (_noise(pattern) > 0).float())
    contrast = _local_contrast(shown)
    contrast = contrast * inside if inside.any() else contrast
    height = contrast.abs().mean((1, 2), keepdim=True)
    visible = height.flatten() > 1e-5 * pixels.abs().max().clamp(min=1e-6)
    if not visible.any():
        return None
    contrast = (contrast / height)[visible].clamp(
        -3, 3
    )  # so that a bright spot, as of a flare, cannot outweigh the rest
    wanted = _local_contrast(expected[None]) * inside
    here, anywhere, clearest = _correlate(contrast, wanted)
    off_px = _off(contrast[clearest], wanted[0], inside) * cell
    return Match(here, anywhere, off_px, inside.numel(), int(inside.sum()), max(rows, columns))


def as_channels(result: Any) -> torch.Tensor:
    """Pixels as float32 [C, H, W]."""
    is_tensor = torch.is_tensor(result)
    tensor = (result if is_tensor else torch.from_numpy(np.array(result))).detach().cpu()
    tensor = tensor.as_subclass(torch.Tensor).float()
    if tensor.ndim == 2:
        return tensor[None]
    if tensor.ndim != 3:
        raise TypeError(f"trace: expected a transform that returns an image, found {type(result).__name__}")
    return tensor if is_tensor else tensor.permute(2, 0, 1).contiguous()


def _expected(
    shown: torch.Tensor, size: tuple[int, int], cell: int, place: Place, spots: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The pattern as the cells of `shown` should show it, and 1 for those that lie inside of the image, else 0."""
    ny, nx = shown.shape[1:]
    a, b, c, d, e, f, x0, y0, x1, y1 = place.tolist()
    u, v = (
        (torch.arange(cells * FINE) + 0.5) * (cell / FINE / side) for cells, side in zip((nx, ny), size, strict=True)
    )
    x, y = a * u + b * v[:, None] + c, d * u + e * v[:, None] + f
    at = torch.stack((2 * x - 1, 2 * y - 1), dim=-1)[None]
    sampled = functional.grid_sample(spots[None, None], at, padding_mode="border", align_corners=False)
    inside = ((x > x0) & (x < x1) & (y > y0) & (y < y1)).float()
    means = functional.avg_pool2d(torch.stack((sampled[0, 0], inside)), FINE)
    return means[0], (means[1] == 1).float()


def _local_contrast(cells: torch.Tensor) -> torch.Tensor:
    """Cells [..., H, W], less the mean around each."""
    return cells - functional.avg_pool2d(cells, NEIGHBOURHOOD, 1, NEIGHBOURHOOD // 2, count_include_pad=False)


def _correlate(contrast: torch.Tensor, wanted: torch.Tensor) -> tuple[float, float, int]:
    """Heights of the correlation within a cell of no shift and over all, and which channel has the first."""
    spectrum = torch.fft.rfft2(contrast) * torch.fft.rfft2(wanted).conj()
    surface = torch.fft.irfft2(spectrum, s=contrast.shape[1:])
    heights = surface.abs() / surface.std((1, 2), keepdim=True).clamp(min=1e-12)
    near = torch.stack([heights[:, y, x] for y in (-1, 0, 1) for x in (-1, 0, 1)]).amax(dim=0)
    return float(near.max()), float(heights.max()), int(near.argmax())


def _off(contrast: torch.Tensor, wanted: torch.Tensor, inside: torch.Tensor) -> float:
    """Mean distance in cells by which an affine map of the result fits the pattern better: one step of Lucas-Kanade."""
    by_y, by_x = torch.gradient(wanted)
    y, x = (torch.linspace(-1, 1, n) for n in wanted.shape)
    y, x = y[:, None].expand_as(wanted), x.expand_as(wanted)
    terms = [wanted, by_x, by_y, x * by_x, y * by_x, x * by_y, y * by_y]
    at = inside > 0
    matrix = torch.stack([term[at] for term in terms], dim=1).double()
    squares = matrix.T @ matrix + 1e-6 * torch.eye(len(terms)).double()
    gain, dx, dy, xx, yx, xy, yy = (torch.linalg.solve(squares, matrix.T @ contrast[at].double())).tolist()
    moved = torch.hypot(dx + xx * x + yx * y, dy + xy * x + yy * y)[at].mean() if at.any() else float("nan")
    return float(moved / max(abs(gain), 1e-12))
