"""`mix_targets` and `mix_images` as compiled loops: the same numbers as `scoring.targets` and `mixing.pixels`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tokenmix_loader.compiled.jit import njit_cached

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]


@njit_cached
def are_within(numbers: Ints, end: int) -> bool:
    """Whether all are from 0 to end - 1."""
    for number in numbers:  # noqa: SIM110 -- generators are not compiled
        if number < 0 or number >= end:
            return False
    return True


@njit_cached
def mix_arrays(
    tokens: Floats,
    masks: Floats,
    labels: Ints,
    partner: Ints,
    num_classes: int,
    smoothing: float,
    min_evidence: float,
) -> Floats:
    """`mix_targets` with supervision tokenmix, of tokens [B, gh, gw] and masks [B or 1, gh, gw], checked."""
    batch, gh, gw = tokens.shape
    targets = np.empty((batch, num_classes), np.float32)
    for i in range(batch):
        j = partner[i]
        mask = masks[i if len(masks) > 1 else 0]
        area = shown_a = shown_b = mass_a = mass_b = np.float32(0)
        for y in range(gh):
            for x in range(gw):
                kept, of_a, of_b = mask[y, x], tokens[i, y, x], tokens[j, y, x]
                area += kept
                shown_a += of_a * kept
                shown_b += of_b * (1 - kept)
                mass_a += of_a
                mass_b += of_b
        area /= gh * gw
        score_a = min(max(shown_a / mass_a, 0.0), 1.0) if mass_a >= min_evidence else area
        score_b = min(max(shown_b / mass_b, 0.0), 1.0) if mass_b >= min_evidence else 1 - area
        total = score_a + score_b
        if labels[i] == labels[j]:
            score_a = score_b = total = min(total, 1.0)
        everywhere = total * smoothing / num_classes
        targets[i] = everywhere
        targets[i, labels[i]] = score_a * (1 - smoothing) + everywhere
        targets[i, labels[j]] = score_b * (1 - smoothing) + everywhere
    return targets


@njit_cached
def mix_pixels(images: Bytes, masks: Bools, mixed: Bytes | None) -> None:
    """`mix_images` of the images' bytes [B, C, H, width]; masks [B or 1, gh, gw], where gw divides the width in bytes.

    Writes to `mixed`, other memory of the same shape, or in place where that is None.
    """
    batch, channels, height, width = images.shape
    gh, gw = masks.shape[1:]
    rows, columns = height // gh, width // gw
    # A byte of ones for each byte that is replaced: so rows are mixed by bit operations, without branches.
    replaced = np.empty((len(masks), gh, width), np.uint8)
    for k in range(len(masks)):
        for y in range(gh):
            for x in range(width):
                replaced[k, y, x] = 0 if masks[k, y, x // columns] else 255
    for i in range((batch + 1) // 2):
        j = batch - 1 - i
        of_i, of_j = replaced[i if len(masks) > 1 else 0], replaced[j if len(masks) > 1 else 0]
        for channel in range(channels):
            for y in range(height):
                row_i, row_j = images[i, channel, y], images[j, channel, y]
                if mixed is None:
                    _swap_row(row_i, row_j, of_i[y // rows], of_j[y // rows])
                else:
                    _mix_row(row_i, row_j, of_i[y // rows], mixed[i, channel, y])
                    _mix_row(row_j, row_i, of_j[y // rows], mixed[j, channel, y])


@njit_cached
def _swap_row(row_i: Bytes, row_j: Bytes, of_i: Bytes, of_j: Bytes) -> None:
    for x in range(len(row_i)):
        difference = row_i[x] ^ row_j[x]
        row_i[x] ^= difference & of_i[x]
        row_j[x] ^= difference & of_j[x]


@njit_cached
def _mix_row(row: Bytes, other: Bytes, replaced: Bytes, mixed: Bytes) -> None:
    for x in range(len(row)):
        mixed[x] = row[x] ^ ((row[x] ^ other[x]) & replaced[x])
