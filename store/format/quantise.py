"""dtype uint8: a map in whole steps of its own scale above its own offset, both float16, half of float16's bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
STEPS = 255


def quantise(maps: Array) -> tuple[Array, Array]:
    """float32 [B, h, w] -> steps uint8 [B, h, w], and (scale, offset) float16 [B, 2]; wrong by scale / 2 at most.

    The offset is the largest float16 that is not above the map's minimum, and the scale the smallest that reaches
    its maximum. So nothing is clipped, no sign is lost, and a map of one float16 number comes back as it was.
    Below -65504 there is no offset: it is -inf, which the rules for rows refuse.
    """
    values = maps.reshape(len(maps), -1).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        offset = _toward(values.min(axis=1), -np.inf) + np.float16(0)  # not -0.0
        scale = _toward((values.max(axis=1) - offset) / STEPS, np.inf)
        step = np.where(scale > 0, scale, 1).astype(np.float64)
        steps = np.rint((values - offset[:, None]) / step[:, None])
        # NaN and inf have no steps; they are in scale or offset too, where they are refused
        steps = np.nan_to_num(steps, nan=0, posinf=0, neginf=0).astype(np.uint8)
    return steps.reshape(maps.shape), np.stack([scale, offset], axis=1)


def dequantise(steps: Array, scale_offset: Array) -> npt.NDArray[np.float32]:
    """uint8 [..., h, w], float16 [..., 2] -> float32 [..., h, w]: scale * steps + offset."""
    scale, offset = np.moveaxis(scale_offset.astype(np.float32), -1, 0)[..., None, None]
    values: npt.NDArray[np.float32] = np.multiply(steps, scale, dtype=np.float32)
    values += offset
    return values


def _toward(values: npt.NDArray[np.float64], limit: float) -> npt.NDArray[np.float16]:
    """The nearest float16 between a value and the limit."""
    near = values.astype(np.float16)
    beyond = near > values if limit < 0 else near < values
    found: npt.NDArray[np.float16] = np.where(beyond, np.nextafter(near, np.float16(limit)), near)
    return found
