"""What mixing does to pixels: floats on any device, uint8 in a worker."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from tokenmix_loader.batch import Box, Draw
from tokenmix_loader.compiled.door import as_array, compiled_for
from tokenmix_loader.scoring.masks import distinct
from tokenmix_loader.shapes import require_shape, token_size


def mix_images(images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """`M * x_a + (1 - M) * x_b` token by token; x_b is the batch in reverse order.

    `images` [B, C, H, W] of any dtype, device and memory format, which the result keeps; `masks` bool [B, gh,
    gw]. Raises ValueError for other masks and where the grid does not divide the image.
    """
    require_shape("mix_images: masks", masks, (len(images), None, None), "pass one mask per image")
    if masks.dtype != torch.bool:
        raise ValueError(f"mix_images: masks: expected bool, found {masks.dtype}; compare with 0")
    rows, columns = token_size(tuple(images.shape[2:]), tuple(masks.shape[1:]))
    if (mixed := _mix_compiled(images, masks)) is not None:
        return mixed
    pixels = distinct(masks).to(images.device, non_blocking=True)[:, None]
    pixels = pixels.repeat_interleave(rows, dim=2).repeat_interleave(columns, dim=3)
    partners = images.flip(0)
    return torch.where(pixels, images, partners, out=None if images.requires_grad else partners)


def mix_floats(images: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Images [B, C, H, W] mixed with the batch in reverse order; themselves where nothing is drawn."""
    if draw.box is not None:
        top, bottom, left, right = draw.box
        mixed = images.clone(memory_format=torch.preserve_format)
        mixed[..., top:bottom, left:right] = images[..., top:bottom, left:right].flip(0)
        return mixed
    if draw.masks is not None:
        return mix_images(images, draw.masks)
    return images if draw.share == 1 else torch.lerp(images.flip(0), images, draw.share)


def mix_bytes(images: torch.Tensor, draw: Draw) -> None:
    """Mix uint8 images [B, C, H, W] in place with the batch in reverse order."""
    if draw.box is not None:
        _swap_box(images.numpy(), draw.box)
    elif draw.masks is not None:
        token_size(tuple(images.shape[2:]), tuple(draw.masks.shape[1:]))
        if _mix_compiled(images, draw.masks, in_place=True) is None:
            _swap_tokens(images.numpy(), draw.masks.numpy())
    elif draw.share < 1:
        _blend(images.numpy(), draw.share)


def _swap_box(images: npt.NDArray[np.uint8], box: Box) -> None:
    top, bottom, left, right = box
    images[..., top:bottom, left:right] = images[::-1, :, top:bottom, left:right].copy()


def _swap_tokens(images: npt.NDArray[np.uint8], masks: npt.NDArray[np.bool_]) -> None:
    """Bit by bit, eight pixels at a time, which is cheaper than choosing between bytes."""
    rows, columns = token_size(images.shape[2:], masks.shape[1:])
    unit = math.gcd(columns, 8)
    words = images.view(f"u{unit}")
    for i in range((len(images) + 1) // 2):
        j = len(images) - 1 - i
        difference = words[i] ^ words[j]
        for k in {i, j}:
            replaced = np.where(masks[k], 0, ~np.zeros(1, words.dtype)).astype(words.dtype)
            words[k] ^= difference & replaced.repeat(rows, axis=0).repeat(columns // unit, axis=1)


def _blend(images: npt.NDArray[np.uint8], share: float) -> None:
    """Mixup, rounded as timm rounds."""
    for i in range((len(images) + 1) // 2):
        j = len(images) - 1 - i
        a, b = images[i].astype(np.float32), images[j].astype(np.float32)
        images[i], images[j] = np.rint(a * share + b * (1 - share)), np.rint(b * share + a * (1 - share))


def _mix_compiled(images: torch.Tensor, masks: torch.Tensor, *, in_place: bool = False) -> torch.Tensor | None:
    """`mix_images` by compiled loops, unless there are none or the images' rows do not lie together."""
    compiled = compiled_for(images, masks)
    if compiled is None:
        return None
    mixed = images if in_place else torch.empty_like(images)
    rows, to = _rows(images), _rows(mixed)
    if rows is None or to is None:
        return None
    compiled.mix_pixels(rows, as_array(distinct(masks), np.bool_), None if in_place else to)
    return mixed


def _rows(images: torch.Tensor) -> npt.NDArray[np.uint8] | None:
    """The bytes of images [B, C, H, W] as [B, C, H, ...] or, with channels last, [B, 1, H, ...]."""
    channels_last = images.permute(0, 2, 3, 1)
    if images.is_contiguous():
        return images.view(torch.uint8).numpy()
    return channels_last.flatten(2)[:, None].view(torch.uint8).numpy() if channels_last.is_contiguous() else None
