"""torchvision's transforms v2: every one of them hands what it drew to its method `transform`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torchvision.transforms import v2

from tokenmix_loader.tracing.affine import FLIP_X, FLIP_Y, Affine, crop_of
from tokenmix_loader.tracing.pillow import watched
from tokenmix_loader.tracing.recorder import note, spy_on

Spy = Callable[[Any], Any]
# Both names were private before torchvision 0.21.
_TRANSFORM = "transform" if hasattr(v2.Transform, "make_params") else "_transform"

V2_PIXEL_ONLY: tuple[type, ...] = (
    v2.ToImage, v2.ToDtype, v2.ToPureTensor, v2.ToPILImage, v2.PILToTensor, v2.ConvertImageDtype, v2.Normalize,
    v2.RGB, v2.RandomErasing, v2.ColorJitter, v2.Grayscale, v2.RandomGrayscale, v2.GaussianBlur, v2.GaussianNoise,
    v2.RandomInvert, v2.RandomPosterize, v2.RandomSolarize, v2.RandomAdjustSharpness, v2.RandomAutocontrast,
    v2.RandomEqualize, v2.RandomChannelPermutation, v2.RandomPhotometricDistort, v2.JPEG, v2.Identity,
)  # fmt: skip


def _spy_on_crop(step: Any) -> Spy:
    transform = getattr(type(step), _TRANSFORM)

    def crop(self: Any, image: Any, params: dict[str, Any]) -> Any:
        note(crop_of(image, params["left"], params["top"], params["width"], params["height"]))
        return transform(self, image, params)

    spy: Spy = spy_on(step, **{_TRANSFORM: crop})
    return spy


def _spy_on_flip(move: Affine) -> Callable[[Any], Spy]:
    def spy(step: Any) -> Spy:
        transform = getattr(type(step), _TRANSFORM)

        def flip(self: Any, image: Any, params: dict[str, Any]) -> Any:
            note(move)
            return transform(self, image, params)

        found: Spy = spy_on(step, **{_TRANSFORM: flip})
        return found

    return spy


def _spy_on_moving(step: Any) -> Spy:
    transform = getattr(type(step), _TRANSFORM)

    def move(self: Any, image: Any, params: dict[str, Any]) -> Any:
        return watched(lambda watch: transform(self, watch, params), image)

    spy: Spy = spy_on(step, **{_TRANSFORM: move})
    return spy


def _spy_on_policy(step: Any) -> Spy:
    apply = type(step)._apply_image_or_video_transform

    def apply_and_note(self: Any, image: Any, *args: Any, **kwargs: Any) -> Any:
        return watched(lambda watch: apply(self, watch, *args, **kwargs), image)

    spy: Spy = spy_on(step, _apply_image_or_video_transform=apply_and_note)
    return spy


V2_SPIES: dict[type, Callable[[Any], Spy]] = {
    v2.RandomResizedCrop: _spy_on_crop,
    v2.RandomHorizontalFlip: _spy_on_flip(FLIP_X),
    v2.RandomVerticalFlip: _spy_on_flip(FLIP_Y),
    v2.RandomRotation: _spy_on_moving,
    v2.RandomAffine: _spy_on_moving,
    v2.RandAugment: _spy_on_policy,
    v2.TrivialAugmentWide: _spy_on_policy,
    v2.AutoAugment: _spy_on_policy,
}
V2_WHOLE: tuple[type, ...] = (v2.Resize, v2.RandomResize, v2.RandomShortestSize, v2.ScaleJitter)
