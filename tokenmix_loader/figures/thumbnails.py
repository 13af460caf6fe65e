"""Small pictures inside a page: photographs under their maps, as data URIs."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from tokenmix_loader.figures.pairs import heat_colour

Floats = npt.NDArray[np.floating]
SIDE_PX = 192  # of a thumbnail's longer side
DIM, UNSEEN = 0.6, 0.25  # what is left of the photograph's light without evidence, and where the teacher did not look
TINT = 0.5  # at most so much of a colour over the photograph, which must stay recognisable


def overlay(photograph: Image.Image, evidence: Floats, view: Floats) -> Image.Image:
    """The photograph, lit and tinted where its map has evidence, dim and grey elsewhere.

    `evidence` [h, w] >= 0; `view`: the rectangle (x0, y0, x1, y1) of the photograph's unit square that it covers.
    """
    photograph.thumbnail((SIDE_PX, SIDE_PX))
    pixels = np.asarray(photograph, np.float32)
    heat, seen = _heat_at(pixels.shape[:2], evidence, view)
    grey = pixels.mean(axis=2, keepdims=True)
    light, tint = (heat**0.75)[..., None], TINT * heat[..., None]
    mixed = (1 - tint) * (light * pixels + (1 - light) * DIM * grey) + tint * heat_colour(0.3 + 0.6 * heat)
    return Image.fromarray(np.where(seen[..., None], mixed, UNSEEN * grey).clip(0, 255).astype(np.uint8))


def data_uri(picture: Image.Image, *, exact: bool = False) -> str:
    """The picture inside an address; `exact`: without loss, for flat colours."""
    buffer = io.BytesIO()
    if exact:
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "WEBP", quality=62, method=4)
    return f"data:image/{'png' if exact else 'webp'};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _heat_at(shape: tuple[int, ...], evidence: Floats, view: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """The evidence at each pixel, the largest being 1, and which pixels the view covers."""
    column, inside_x = _cells(shape[1], evidence.shape[1], view[0], view[2])
    row, inside_y = _cells(shape[0], evidence.shape[0], view[1], view[3])
    seen = inside_y[:, None] & inside_x
    scaled = evidence / max(float(evidence.max()), 1e-12)
    return np.where(seen, scaled[row[:, None], column], 0), seen


def _cells(pixels: int, cells: int, begin: float, end: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Which of the cells between begin and end, in units of the side, each pixel's centre lies in, and if in any."""
    place = ((np.arange(pixels) + 0.5) / pixels - begin) / (end - begin) * cells
    return np.clip(np.floor(place), 0, cells - 1).astype(np.int64), (place >= 0) & (place < cells)
