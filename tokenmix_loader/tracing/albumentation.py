"""Albumentations' pipelines: every transform keeps the parameters that it was last applied with.

The package is not imported here: a pipeline brings it along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from tokenmix_loader.tracing.affine import FLIP_X, FLIP_Y, IDENTITY, QUARTER_TURNS, Affine, between_unit_squares
from tokenmix_loader.tracing.recorder import Step, record

Params = Mapping[str, Any]
WHOLE_IMAGE = ("Resize", "SmallestMaxSize", "LongestMaxSize", "RandomScale", "NoOp", "ToTensorV2")
CROPS = ("RandomResizedCrop", "RandomSizedCrop", "RandomCrop", "CenterCrop", "Crop")


def is_albumentations(step: Any) -> bool:
    """Whether it comes from that package."""
    return type(step).__module__.partition(".")[0] == "albumentations"


def unknown_transforms(step: Any, path: str) -> Iterator[str]:
    """Path and type of each transform in a pipeline whose geometry is not known."""
    name = type(step).__name__
    if name == "Compose" and is_albumentations(step) and step.p == 1:  # else its record may be of an earlier image
        for i, inner in enumerate(step.transforms):
            yield from unknown_transforms(inner, f"{path}.transforms[{i}]")
    elif not (is_albumentations(step) and (name in GEOMETRY_OF or _is_pixel_only(step))):
        yield f"{path}: {type(step).__module__}.{name}"


def recording_pipeline(pipeline: Any) -> Step:
    """The pipeline as a function of one image, PIL or array, which records what its transforms did."""
    leaves = [leaf for leaf in _leaves(pipeline) if not _is_pixel_only(leaf)]

    def run(image: Any) -> Any:
        result = pipeline(image=np.asarray(image))["image"]
        for leaf in leaves:
            params = leaf.get_applied_params()
            if params:  # none where it was not applied this time
                move, filling = GEOMETRY_OF[type(leaf).__name__](params)
                record(move, filling=filling)
        return result

    return run


def _leaves(step: Any) -> list[Any]:
    if type(step).__name__ != "Compose":
        return [step]
    return [leaf for inner in step.transforms for leaf in _leaves(inner)]


def _is_pixel_only(step: Any) -> bool:
    """Image-only by its own class, or a composition of such transforms, whichever of them it applies."""
    kinds = {kind.__name__ for kind in type(step).__mro__ if kind.__module__.startswith("albumentations.")}
    return "ImageOnlyTransform" in kinds or ("BaseCompose" in kinds and all(map(_is_pixel_only, step.transforms)))


def _whole_image(_: Params) -> tuple[Affine, bool]:
    return IDENTITY, False


def _crop(params: Params) -> tuple[Affine, bool]:
    if params.get("pad_params"):
        raise TypeError("trace: expected a crop inside the image, found one that pads; leave pad_if_needed out")
    left, top, right, bottom = params["crop_coords"]
    height, width = params["shape"][:2]
    return between_unit_squares((1, 0, left, 0, 1, top), (right - left, bottom - top), (width, height)), False


def _turn(params: Params) -> tuple[Affine, bool]:
    return QUARTER_TURNS[params["factor"] % 4], False


def _warp(params: Params) -> tuple[Affine, bool]:
    """OpenCV's matrix maps pixel centres of the input, whole numbers from 0, to those of the result."""
    if params.get("x_max", -1) > 0:
        raise TypeError("trace: expected a rotation that keeps the image's size, found crop_border; leave it out")
    height, width = params["shape"][:2]
    out_height, out_width = params.get("output_shape", (height, width))[:2]
    inverse = np.linalg.inv(params["matrix"])
    linear = inverse[:2, :2]
    offset = inverse[:2, 2] + 0.5 - linear @ (0.5, 0.5)
    a, b, d, e = linear.ravel().tolist()
    c, f = offset.tolist()
    return between_unit_squares((a, b, c, d, e, f), (out_width, out_height), (width, height)), True


GEOMETRY_OF: dict[str, Callable[[Params], tuple[Affine, bool]]] = {
    **dict.fromkeys(WHOLE_IMAGE, _whole_image),
    **dict.fromkeys(CROPS, _crop),
    "HorizontalFlip": lambda _: (FLIP_X, False),
    "VerticalFlip": lambda _: (FLIP_Y, False),
    "Transpose": lambda _: ((0.0, 1.0, 0.0, 1.0, 0.0, 0.0), False),
    "RandomRotate90": _turn,
    **dict.fromkeys(("Affine", "ShiftScaleRotate", "SafeRotate", "Rotate"), _warp),
}
