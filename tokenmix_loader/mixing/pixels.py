"""What mixing does to pixels: floats on any device, uint8 in a worker."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from tokenmix_loader.batch import Draw, TokenSources
from tokenmix_loader.compiled.door import as_array, compiled_for, optimal_loops
from tokenmix_loader.scoring.masks import without_copies
from tokenmix_loader.shapes import require_shape, token_size

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def mix_images(images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """`M * x_a + (1 - M) * x_b` token by token; x_b is the batch in reverse order.

    `images` [B, C, H, W] of any dtype, device and memory format, which the result keeps; `masks` bool [B, gh,
    gw]. Raises ValueError for other masks and where the grid does not divide the image.
    """
    require_shape("mix_images: images", images, (None, None, None, None), "pass a batch [B, C, H, W]")
    require_shape("mix_images: masks", masks, (len(images), None, None), "pass one mask per image")
    if masks.dtype != torch.bool:
        raise ValueError(f"mix_images: masks: expected bool, found {masks.dtype}; compare with 0")
    return _mix_tokens(images, masks, in_place=False)


def mix_batch(images: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Images [B, C, H, W] mixed with the batch in reverse order; themselves where nothing is drawn.

    uint8 images are mixed in place, which saves a worker a copy of its batch, unless their tokens have moved; others
    are not written to.
    """
    in_place = images.dtype == torch.uint8
    if draw.box is not None:
        top, bottom, left, right = draw.box
        mixed = images if in_place else images.clone()
        mixed[..., top:bottom, left:right] = images[..., top:bottom, left:right].flip(0)
        return mixed
    if draw.sources is not None:
        return mix_sources(images, draw.sources)
    if draw.masks is not None:
        return _mix_tokens(images, draw.masks, in_place)
    if draw.share == 1:
        return images
    return _blend_bytes(images, draw.share) if in_place else torch.lerp(images.flip(0), images, draw.share)


def mix_sources(images: torch.Tensor, sources: TokenSources) -> torch.Tensor:
    """What images [B, C, H, W] of any dtype, device and memory format show at the sources; bytes are rounded.

    Raises ValueError where the grid does not divide the image.
    """
    rows, columns = token_size("mix_sources: images", tuple(images.shape[2:]), tuple(sources.image.shape[2:]))
    if (mixed := _mix_sources_compiled(images, sources, columns)) is not None:
        return mixed
    batch, channels, (gh, gw) = *images.shape[:2], sources.image.shape[2:]
    # Each token [C, rows, columns], numbered over the batch.
    parted = images.reshape(batch, channels, gh, rows, gw, columns).permute(0, 2, 4, 1, 3, 5)
    tokens = parted.reshape(batch * gh * gw, channels, rows, columns)
    sums = torch.zeros_like(tokens, dtype=torch.float32 if images.dtype == torch.uint8 else images.dtype)
    for image, token, weight in zip(*(part.unbind(1) for part in sources), strict=True):
        chosen = (image * (gh * gw) + token).flatten().to(images.device, non_blocking=True)
        share = weight.flatten().to(images.device, sums.dtype, non_blocking=True)
        sums += tokens[chosen] * share[:, None, None, None]
    sums = sums.round() if images.dtype == torch.uint8 else sums
    mixed = sums.to(images.dtype).view(batch, gh, gw, channels, rows, columns).permute(0, 3, 1, 4, 2, 5)
    return torch.empty_like(images).copy_(mixed.reshape(images.shape))


def _mix_sources_compiled(images: torch.Tensor, sources: TokenSources, columns: int) -> torch.Tensor | None:
    """The same of bytes and two sources that are whole or half and half; None for all others."""
    if images.dtype != torch.uint8 or not images.is_contiguous() or compiled_for(images, *sources) is None:
        return None
    loops, (image, token, weight) = optimal_loops(), (part.numpy() for part in sources)
    if loops is None or image.shape[1] != 2 or not np.isin(weight, (0, 0.5, 1)).all():
        return None
    unit = np.uint64 if columns % 8 == 0 else np.uint8
    masks = np.array([[254], [1]], np.uint8).repeat(8, axis=1).view(unit)[:, 0]
    mixed = torch.empty_like(images)
    parts = np.ascontiguousarray(image), np.ascontiguousarray(token), np.ascontiguousarray(weight)
    loops.mix_sources(images.numpy().view(unit), *parts, masks, mixed.numpy().view(unit))
    return mixed


def _mix_tokens(images: torch.Tensor, masks: torch.Tensor, in_place: bool) -> torch.Tensor:
    rows, columns = token_size("mix_images: images", tuple(images.shape[2:]), tuple(masks.shape[1:]))
    masks = without_copies(masks)
    if (mixed := _mix_compiled(images, masks, in_place)) is not None:
        return mixed
    unit = math.gcd(columns, 8) if images.dtype == torch.uint8 and images.is_contiguous() else 1
    words = images if unit == 1 else images.view(_WORDS[unit])  # up to eight bytes are chosen at a time
    chosen = masks.to(images.device, non_blocking=True)[:, None]
    chosen = chosen.repeat_interleave(rows, dim=2).repeat_interleave(columns // unit, dim=3)
    partners = words.flip(0)
    out = None if images.requires_grad else words if in_place else partners
    return torch.where(chosen, words, partners, out=out).view(images.dtype)


def _blend_bytes(images: torch.Tensor, share: float) -> torch.Tensor:
    """Mixup in place, rounded as timm rounds."""
    pixels = images.numpy()
    for i in range((len(pixels) + 1) // 2):
        j = len(pixels) - 1 - i
        a, b = pixels[i].astype(np.float32), pixels[j].astype(np.float32)
        pixels[i], pixels[j] = np.rint(a * share + b * (1 - share)), np.rint(b * share + a * (1 - share))
    return images


def _mix_compiled(images: torch.Tensor, masks: torch.Tensor, in_place: bool) -> torch.Tensor | None:
    """`_mix_tokens` by compiled loops; None where there are none or the bytes of a row are not contiguous."""
    loops = compiled_for(images, masks)
    if loops is None or (rows := _rows_of(images)) is None:
        return None
    mixed = images if in_place else torch.empty_like(images)
    if (to := _rows_of(mixed)) is None:
        return None
    loops.mix_pixels(rows, as_array(masks, np.bool_), None if in_place else to)
    return mixed


def _rows_of(images: torch.Tensor) -> npt.NDArray[np.uint8] | None:
    """The bytes of images [B, C, H, W] as [B, C, H, ...] or, with channels last, [B, 1, H, ...]."""
    channels_last = images.permute(0, 2, 3, 1)
    if images.is_contiguous():
        return images.view(torch.uint8).numpy()
    return channels_last.flatten(2)[:, None].view(torch.uint8).numpy() if channels_last.is_contiguous() else None
