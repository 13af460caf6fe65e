"""Albumentations' and AlbumentationsX' pipelines: what each transform did is read off the call in which it did it.

The package is not imported here: a pipeline brings it along. Every transform of it has a table, `_key2func`, in which
the pipeline looks up what to do with an image; there a function is put that does the same and records the parameters
that it was called with. So a transform records each time it is applied and at no other time, wherever it stands and
however often, and one that records nothing has not been applied.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from tokenmix_loader.tracing.affine import FLIP_X, FLIP_Y, IDENTITY, QUARTER_TURNS, Affine, between_unit_squares
from tokenmix_loader.tracing.recorder import Step, UntraceableTransform, record

PACKAGE = "albumentations"  # of both projects
OLDEST = (1, 4, 19)  # earlier ones have other parameters
Params = Mapping[str, Any]
Size = tuple[int, int]  # width and height in px
Move = tuple[Affine, bool]  # as recorder.record takes it
WHOLE_IMAGE = ("Resize", "SmallestMaxSize", "LongestMaxSize", "RandomScale", "NoOp", "ToTensorV2")
CROPS = ("RandomResizedCrop", "RandomSizedCrop", "RandomCrop", "CenterCrop", "Crop", "RandomCropFromBorders")
ERASING = ("CoarseDropout", "GridDropout", "XYMasking", "Erasing", "PixelDropout")
COMPOSITIONS = ("Compose", "Sequential", "OneOf", "OneOrOther", "SomeOf", "RandomOrder", "ReplayCompose")


def is_albumentations(step: Any) -> bool:
    """Whether it comes from that package."""
    return type(step).__module__.partition(".")[0] == PACKAGE


def unknown_transforms(step: Any, path: str) -> Iterator[str]:
    """Path and type of each transform in a pipeline whose geometry is not known."""
    name = type(step).__name__
    if is_albumentations(step) and name in COMPOSITIONS:
        for i, inner in enumerate(step.transforms):
            yield from unknown_transforms(inner, f"{path}.transforms[{i}]")
    elif not (is_albumentations(step) and (name in GEOMETRY_OF or _is_pixel_only(step))):
        yield f"{path}: {type(step).__module__}.{name}"


def recording_pipeline(pipeline: Any) -> Step:
    """The pipeline as a function of one image, PIL or array, which records what its transforms did.

    It is the user's own, with its own random streams. Raises UntraceableTransform where its version is too old.
    """
    _require_version()
    for leaf in leaves(pipeline):
        table = leaf._key2func
        if _is_geometric(leaf) and not isinstance(table["image"], _RecordingApply):
            table["image"] = _RecordingApply(type(leaf).__name__, table["image"])

    def run(image: Any) -> Any:
        for leaf in leaves(pipeline):
            if _is_geometric(leaf) and type(leaf._key2func["image"]) is not _RecordingApply:
                raise UntraceableTransform(f"trace: expected the pipeline that was traced, found {leaf} new in it")
        result = pipeline(image=np.asarray(image))["image"]
        # A mirrored view of an array, as AlbumentationsX gives, is nothing that PyTorch takes.
        return np.ascontiguousarray(result) if isinstance(result, np.ndarray) else result

    return run


def leaves(step: Any) -> Iterator[Any]:
    """The transforms in a pipeline, without compositions."""
    if "BaseCompose" not in _kinds(step):
        yield step
        return
    for inner in step.transforms:
        yield from leaves(inner)


def reseed(step: Any, seed: int) -> None:
    """Another state of the pipeline's own generators."""
    if is_albumentations(step):
        step.set_random_seed(seed)


class _RecordingApply:
    """What a transform does to an image, and a record of it."""

    def __init__(self, name: str, apply: Callable[..., Any]) -> None:
        self._name, self._apply = name, apply
        self.__wrapped__ = apply  # AlbumentationsX asks for its signature

    def __call__(self, image: Any, *args: Any, **params: Any) -> Any:
        result = self._apply(image, *args, **params)
        move, filling = GEOMETRY_OF[self._name](params, image.shape[1::-1], result.shape[1::-1])
        record(move, filling=filling)
        return result


def _require_version() -> None:
    found = str(getattr(sys.modules.get(PACKAGE), "__version__", "unknown"))
    numbers = tuple(int(part) for part in found.split(".")[:3] if part.isdigit())
    if numbers < OLDEST:
        raise UntraceableTransform(
            f"trace: expected {PACKAGE} {'.'.join(map(str, OLDEST))} or later, whose parameters are known, "
            f"found {found}; update it"
        )


def _is_geometric(leaf: Any) -> bool:
    """Whether its geometry is known and recorded."""
    return type(leaf).__name__ in GEOMETRY_OF


def _is_pixel_only(step: Any) -> bool:
    """Image-only by its own class, or a composition of such transforms, whichever of them it applies."""
    if not is_albumentations(step):  # a class of the user's may do anything
        return False
    kinds = _kinds(step)
    return "ImageOnlyTransform" in kinds or ("BaseCompose" in kinds and all(map(_is_pixel_only, step.transforms)))


def _kinds(step: Any) -> set[str]:
    """Names of the package's own classes that it is of."""
    return {kind.__name__ for kind in type(step).__mro__ if kind.__module__.startswith(f"{PACKAGE}.")}


def _whole_image(_: Params, __: Size, ___: Size) -> Move:
    return IDENTITY, False


def _crop(params: Params, size: Size, _: Size) -> Move:
    """Coordinates are those of the padded image, where it is padded."""
    left, top, right, bottom = params["crop_coords"]
    pads = params.get("pad_params") or {"pad_left": 0, "pad_top": 0}
    offset = left - pads["pad_left"], top - pads["pad_top"]
    return between_unit_squares((1, 0, offset[0], 0, 1, offset[1]), (right - left, bottom - top), size), len(pads) > 2


def _pad(params: Params, size: Size, padded: Size) -> Move:
    return between_unit_squares((1, 0, -params["pad_left"], 0, 1, -params["pad_top"]), padded, size), True


def _crop_and_pad(params: Params, size: Size, _: Size) -> Move:
    left, top, right, bottom = params["crop_params"] or (0, 0, *size)
    above, below, before, beyond = params["pad_params"] or (0, 0, 0, 0)
    shown = before + right - left + beyond, above + bottom - top + below
    return between_unit_squares((1, 0, left - before, 0, 1, top - above), shown, size), True


def _turn(params: Params, _: Size, __: Size) -> Move:
    """AlbumentationsX has names for the turns, as for those with a reflection."""
    name = params.get("group_element")
    return (QUARTER_TURNS[params["factor"] % 4] if name is None else SYMMETRIES[str(name)]), False


def _warp(params: Params, size: Size, shown: Size) -> Move:
    """OpenCV's matrix maps pixel centres of the input, whole numbers from 0, to those of the result.

    Where the result's border is cut off, x_min and y_min say where what is left begins.
    """
    cut = (params["x_min"], params["y_min"]) if params.get("x_max", -1) > 0 else (0, 0)
    inverse = np.linalg.inv(params["matrix"])
    linear = inverse[:2, :2]
    offset = inverse[:2, 2] + 0.5 + linear @ np.subtract(cut, 0.5)
    a, b, d, e = linear.ravel().tolist()
    c, f = offset.tolist()
    return between_unit_squares((a, b, c, d, e, f), shown, size), True


SYMMETRIES: dict[str, Affine] = {
    "e": IDENTITY, "r90": QUARTER_TURNS[1], "r180": QUARTER_TURNS[2], "r270": QUARTER_TURNS[3],
    "h": FLIP_X, "v": FLIP_Y, "t": (0.0, 1.0, 0.0, 1.0, 0.0, 0.0), "hvt": (0.0, -1.0, 1.0, -1.0, 0.0, 1.0),
}  # fmt: skip
# By the name of a class: its parameters, the sizes of its input and of its result -> the move
GEOMETRY_OF: dict[str, Callable[[Params, Size, Size], Move]] = {
    **dict.fromkeys((*WHOLE_IMAGE, *ERASING), _whole_image),
    **dict.fromkeys(CROPS, _crop),
    **dict.fromkeys(("Pad", "PadIfNeeded"), _pad),
    "CropAndPad": _crop_and_pad,
    "HorizontalFlip": lambda *_: (FLIP_X, False),
    "VerticalFlip": lambda *_: (FLIP_Y, False),
    "Transpose": lambda *_: (SYMMETRIES["t"], False),
    **dict.fromkeys(("RandomRotate90", "D4", "SquareSymmetry"), _turn),
    **dict.fromkeys(("Affine", "ShiftScaleRotate", "SafeRotate", "Rotate"), _warp),
}
