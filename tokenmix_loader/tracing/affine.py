"""Affine maps between unit squares as six floats, (x, y) = (a u + b v + c, d u + e v + f).

Plain floats: for a few numbers per image, numpy's cost per call is most of the work.
"""

from __future__ import annotations

from typing import Any

from PIL import Image
from torchvision.transforms.functional import get_dimensions

Affine = tuple[float, float, float, float, float, float]
Bounds = tuple[float, float, float, float]

IDENTITY: Affine = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
WHOLE: Bounds = (0.0, 0.0, 1.0, 1.0)
FLIP_X: Affine = (-1.0, 0.0, 1.0, 0.0, 1.0, 0.0)
FLIP_Y: Affine = (1.0, 0.0, 0.0, 0.0, -1.0, 1.0)
QUARTER_TURNS: tuple[Affine, ...] = (  # so many, anticlockwise
    IDENTITY, (0.0, -1.0, 1.0, 1.0, 0.0, 0.0), (-1.0, 0.0, 1.0, 0.0, -1.0, 1.0), (0.0, 1.0, 0.0, -1.0, 0.0, 1.0),
)  # fmt: skip


def compose(outer: Affine, inner: Affine) -> Affine:
    """First `inner`, then `outer`."""
    a, b, c, d, e, f = outer
    p, q, r, s, t, u = inner
    return (a * p + b * s, a * q + b * t, a * r + b * u + c, d * p + e * s, d * q + e * t, d * r + e * u + f)


def between_unit_squares(in_px: Affine, of: tuple[int, int], to: tuple[int, int]) -> Affine:
    """The same map as `in_px`, which goes from an image of size `of` to one of size `to`, (width, height) in px."""
    a, b, c, d, e, f = in_px
    (u, v), (x, y) = of, to
    return (a * u / x, b * v / x, c / x, d * u / y, e * v / y, f / y)


def clip(box: Bounds, frame: Affine) -> Bounds:
    """The part of a box (x0, y0, x1, y1) in which `frame` may map the unit square.

    Exact for an upright frame. The box around an oblique one also holds corners outside of it, see `TracedImage`.
    """
    x0, y0, x1, y1 = box
    near_x, far_x = _reach(*frame[:3])
    near_y, far_y = _reach(*frame[3:])
    return (
        near_x if near_x > x0 else x0,
        near_y if near_y > y0 else y0,
        far_x if far_x < x1 else x1,
        far_y if far_y < y1 else y1,
    )


def _reach(by_u: float, by_v: float, offset: float) -> tuple[float, float]:
    """The least and the largest of by_u * u + by_v * v + offset for u and v from 0 to 1."""
    near = far = offset
    for step in (by_u, by_v):
        if step < 0:
            near += step
        else:
            far += step
    return near, far


def crop_affine(image: Any, left: int, top: int, width: int, height: int) -> Affine:
    """A crop's unit square in that of the image, all in px."""
    image_width, image_height = size_of(image)
    return (width / image_width, 0.0, left / image_width, 0.0, height / image_height, top / image_height)


def pad_affine(image: Any, padding: Any, padded: Any) -> Affine:
    """A padded image's unit square in that of the image; `padding` as torchvision takes it: 1, 2 or 4 numbers in px."""
    left, top = (padding, padding) if isinstance(padding, int) else (padding[0], padding[-1 if len(padding) < 4 else 1])
    return crop_affine(image, -left, -top, *size_of(padded))


def size_of(image: Any) -> tuple[int, int]:
    """Width and height of an image or a tensor."""
    if isinstance(image, Image.Image):
        return image.size
    _, height, width = get_dimensions(image)
    return width, height
