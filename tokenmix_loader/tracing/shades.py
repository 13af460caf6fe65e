"""What a transform did to the geometry, measured on grey ramps; for the message of a fault.

A black image, a white one and two ramps go through the same draw. From the four values of a pixel follows where it
comes from, as long as colours change linearly and pixels are not blurred.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from tokenmix_loader.tracing.pattern import as_channels

ROUNDS, KEPT = 6, 0.8  # of the fit: in each, so large a share of the pixels that fit best is kept
TOLERANCE = 0.01  # of the image's side, between most pixels and the affine


def draw_shades(width: int, height: int) -> list[Image.Image]:
    """Black, white, a ramp from left to right and one from top to bottom, all RGB."""
    y, x = (np.mgrid[:height, :width] + 0.5) * 255 / np.reshape((height, width), (2, 1, 1))
    grey = [np.zeros_like(x), np.full_like(x, 255), x, y]
    return [Image.fromarray(np.repeat(shade.round().astype(np.uint8)[..., None], 3, axis=2)) for shade in grey]


def affine_of(results: list[Any]) -> list[float] | None:
    """The affine that the results of `draw_shades` show, as six numbers; None where they show none."""
    images = [as_channels(result).mean(dim=0).double() for result in results]
    if len({image.shape for image in images}) > 1:
        return None
    black, white, *ramps = images
    rows, columns = black.shape
    v, u = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
    known = (white - black).abs() > 0.2 * (white - black).abs().max().clamp(min=1e-9)
    terms = torch.stack((u, v, torch.ones_like(u)), dim=-1).double()[known]
    at = torch.stack([((ramp - black) / (white - black))[known] for ramp in ramps], dim=-1)
    for _ in range(ROUNDS):
        if len(at) < 20:
            return None
        affine = torch.linalg.lstsq(terms, at).solution
        wrong = (terms @ affine - at).abs().amax(dim=1)
        kept = wrong <= wrong.quantile(KEPT)
        terms, at = terms[kept], at[kept]
    return affine.T.flatten().tolist() if wrong.median() < TOLERANCE else None
