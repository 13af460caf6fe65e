"""mIoU and mAcc over a whole set: one confusion matrix, not a mean over images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import interpolate, pad

from recipes.transfer.scenes import IGNORED

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # of the multi-scale test, each also mirrored


@dataclass(frozen=True)
class Figures:
    """`iou` float64 [K] has NaN for a class that is neither there nor predicted, which `mean_iou` leaves out;
    `mean_accuracy` leaves out classes without a pixel.
    """

    iou: torch.Tensor
    mean_iou: float
    mean_accuracy: float
    pixel_accuracy: float


def confusion(labels: torch.Tensor, predicted: torch.Tensor, num_classes: int) -> torch.Tensor:
    """int64 [K, K]: pixels of each class (row) by prediction (column); ignored pixels are left out."""
    counted = labels != IGNORED
    cells = labels[counted] * num_classes + predicted[counted]
    return torch.bincount(cells.flatten(), minlength=num_classes**2).reshape(num_classes, num_classes)


def figures(matrix: torch.Tensor) -> Figures:
    """Of a confusion matrix [K, K]; ValueError where it has no pixel."""
    matrix = matrix.double()
    if not matrix.sum():
        raise ValueError("mIoU: expected pixels with a label, found none; look at the labels' files")
    right, there = matrix.diag(), matrix.sum(1)
    iou = right / (there + matrix.sum(0) - right)
    return Figures(iou, float(iou.nanmean()), float((right / there).nanmean()), float(right.sum() / matrix.sum()))


@torch.inference_mode()
def evaluate(
    model: nn.Module, scenes: Iterable[Sequence[Any]], num_classes: int, window_px: int, *,
    scales: Sequence[float] = (1.0,), mirrored: bool = False, device: torch.device,
) -> Figures:  # fmt: skip
    """Over (image [3, h, w], labels [H, W]) pairs, labels at their own size.

    `scales` and `mirrored`: probabilities are averaged over all of these views (the multi-scale test).
    """
    model.eval()
    total = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    for image, labels in scenes:
        summed = sum(
            _probabilities(model, image[None].to(device), scale, flip, tuple(labels.shape), window_px)
            for scale in scales
            for flip in ((False, True) if mirrored else (False,))
        )
        assert isinstance(summed, torch.Tensor)
        total += confusion(labels, summed.argmax(1)[0].cpu(), num_classes)
    return figures(total)


def _probabilities(
    model: nn.Module, image: torch.Tensor, scale: float, flip: bool, size: tuple[int, ...], window_px: int
) -> torch.Tensor:
    """[1, K, *size]."""
    height, width = (max(1, round(side * scale)) for side in image.shape[2:])
    view = interpolate(image, size=(height, width), mode="bilinear", antialias=True) if scale != 1 else image
    logits = slide(model, view.flip(3) if flip else view, window_px)
    return interpolate(logits.flip(3) if flip else logits, size=size, mode="bilinear").softmax(1)


def slide(model: nn.Module, image: torch.Tensor, window_px: int) -> torch.Tensor:
    """Logits [1, K, H, W] of an image of any size, averaged over windows that move on by 2/3 of their side."""
    height, width = image.shape[2:]
    padded = pad(image, (0, max(0, window_px - width), 0, max(0, window_px - height)))
    corners = [(y, x) for y in _starts(padded.shape[2], window_px) for x in _starts(padded.shape[3], window_px)]
    logits, count = torch.tensor(0.0), torch.zeros(padded.shape[2:], device=image.device)
    for number, (y, x) in enumerate(corners):
        place = ..., slice(y, y + window_px), slice(x, x + window_px)
        seen = model(padded[place]).float()
        if not number:
            logits = seen.new_zeros(1, seen.shape[1], *padded.shape[2:])
        logits[place] += seen
        count[place] += 1
    return (logits / count)[..., :height, :width]


def _starts(length: int, window: int) -> list[int]:
    """Where windows begin: the last ends with the image."""
    stride = max(1, window * 2 // 3)
    return [min(at, length - window) for at in range(0, length - window + stride, stride)]
