"""An image that records what Pillow is asked to do with its geometry.

timm's and torchvision's rotations, shears and translations of PIL images all end in `Image.transform` or
`Image.transpose`. There the very numbers that Pillow uses can be read, whoever computed them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import Image

from tokenmix_loader.tracing.affine import FLIP_X, FLIP_Y, QUARTER_TURNS, Affine, between_unit_squares
from tokenmix_loader.tracing.recorder import UntraceableTransform, record

_TRANSPOSED: dict[Image.Transpose, Affine] = {
    Image.Transpose.FLIP_LEFT_RIGHT: FLIP_X,
    Image.Transpose.FLIP_TOP_BOTTOM: FLIP_Y,
    Image.Transpose.ROTATE_90: QUARTER_TURNS[1],
    Image.Transpose.ROTATE_180: QUARTER_TURNS[2],
    Image.Transpose.ROTATE_270: QUARTER_TURNS[3],
}


def apply_recorded(function: Callable[..., Any], image: Any, /, *args: Any, **kwargs: Any) -> Any:
    """`function(image, *args, **kwargs)`, recording the map of the result's unit square to that of `image`.

    `function` may call `transform` (affine) or `transpose` on the image it is given, directly or through
    `rotate`; a result that comes about otherwise must show every pixel where it was. Raises
    UntraceableTransform for anything but a PIL image and for a transform that is not affine.
    """
    if not isinstance(image, Image.Image):
        raise UntraceableTransform(
            f"trace: expected a PIL image in front of an augmentation, found {type(image).__name__}; "
            "convert to tensors after it"
        )
    recording = _RecordingImage(image)
    result = function(recording, *args, **kwargs)
    return image if result is recording else result


class _RecordingImage(Image.Image):
    """The same image under a class of ours; it shares its state with the other, so any change shows in both."""

    def __init__(self, image: Image.Image) -> None:
        if type(image) is not Image.Image:
            image.load()  # a file that was opened but not decoded yet can be decoded by its own class only
        self.__dict__ = image.__dict__

    def transform(self, size: Any, method: Any, data: Any = None, *args: Any, **kwargs: Any) -> Image.Image:
        if method != Image.Transform.AFFINE:
            raise UntraceableTransform(f"trace: expected an affine transform, found {method}; leave it out")
        # Pillow's six numbers map the result to the input in pixels whose corners are whole numbers.
        record(between_unit_squares(tuple(data[:6]), size, self.size), filling=True)
        return super().transform(size, method, data, *args, **kwargs)

    def transpose(self, method: Image.Transpose) -> Image.Image:
        record(_TRANSPOSED[method])
        return super().transpose(method)
