"""torchvision's transforms v2: every one of them passes what it drew to its method `transform`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torchvision.transforms import v2

from tokenmix_loader.tracing.affine import FLIP_X, FLIP_Y, Affine, crop_affine, pad_affine
from tokenmix_loader.tracing.pillow import apply_recorded
from tokenmix_loader.tracing.recorder import Recorder, Step, record, with_replaced

Params = Mapping[str, Any]
# Both names were private before torchvision 0.21.
_TRANSFORM = "transform" if hasattr(v2.Transform, "make_params") else "_transform"

PIXEL_ONLY: tuple[type, ...] = (
    v2.ToImage, v2.ToDtype, v2.ToPureTensor, v2.ToPILImage, v2.PILToTensor, v2.ConvertImageDtype, v2.Normalize,
    v2.RGB, v2.RandomErasing, v2.ColorJitter, v2.Grayscale, v2.RandomGrayscale, v2.GaussianBlur, v2.GaussianNoise,
    v2.RandomInvert, v2.RandomPosterize, v2.RandomSolarize, v2.RandomAdjustSharpness, v2.RandomAutocontrast,
    v2.RandomEqualize, v2.RandomChannelPermutation, v2.RandomPhotometricDistort, v2.JPEG, v2.Identity,
)  # fmt: skip


def _recording_params(move_of: Callable[[Any, Params], Affine], *, filling: bool = False) -> Recorder:
    """For steps whose geometry, `move_of(image, params)`, follows from what they drew."""

    def recorder(step: Any) -> Step:
        transform = getattr(type(step), _TRANSFORM)

        def recording(self: Any, image: Any, params: Params) -> Any:
            record(move_of(image, params), filling=filling)
            return transform(self, image, params)

        return with_replaced(step, **{_TRANSFORM: recording})

    return recorder


def _recording_image(method: str) -> Recorder:
    """For steps whose `method` moves a PIL image, which then records how."""

    def recorder(step: Any) -> Step:
        original = getattr(type(step), method)

        def recording(self: Any, image: Any, *args: Any, **kwargs: Any) -> Any:
            return apply_recorded(partial(original, self), image, *args, **kwargs)

        return with_replaced(step, **{method: recording})

    return recorder


def _crop(image: Any, params: Params) -> Affine:
    return crop_affine(image, params["left"], params["top"], params["width"], params["height"])


def _padded_crop(image: Any, params: Params) -> Affine:
    left, top, *_ = params["padding"]
    return crop_affine(image, params["left"] - left, params["top"] - top, params["width"], params["height"])


def _recording_pad(step: Any) -> Step:
    transform = getattr(type(step), _TRANSFORM)

    def recording(self: Any, image: Any, params: Params) -> Any:
        padded = transform(self, image, params)
        record(pad_affine(image, self.padding, padded), filling=True)
        return padded

    return with_replaced(step, **{_TRANSFORM: recording})


RECORDERS: dict[type, Recorder] = {
    v2.RandomCrop: _recording_params(_padded_crop, filling=True),
    v2.Pad: _recording_pad,
    v2.RandomResizedCrop: _recording_params(_crop),
    v2.RandomHorizontalFlip: _recording_params(lambda *_: FLIP_X),
    v2.RandomVerticalFlip: _recording_params(lambda *_: FLIP_Y),
    **dict.fromkeys((v2.RandomRotation, v2.RandomAffine), _recording_image(_TRANSFORM)),
    **dict.fromkeys(
        (v2.RandAugment, v2.TrivialAugmentWide, v2.AutoAugment), _recording_image("_apply_image_or_video_transform")
    ),
}
