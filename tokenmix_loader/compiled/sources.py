"""Pixels of images whose tokens come from anywhere, whole or half and half, as a compiled loop over words of bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tokenmix_loader.compiled.jit import njit_cached

Words = npt.NDArray[np.unsignedinteger[Any]]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@njit_cached
def mix_sources(images: Words, image: Ints, token: Ints, weight: Floats, masks: Words, mixed: Words) -> None:
    """Write to `mixed` what `images` [B, C, H, words] show at two sources [B, 2, gh, gw], of weights 0, 1/2 or 1.

    Bytes are taken several at a time, as words; `masks`: words of the bytes 254 and of the bytes 1. Means are rounded
    as floats are, from the half to the even number.
    """
    batch, channels, height, width = images.shape
    gh, gw = image.shape[2:]
    rows, columns = height // gh, width // gw
    no_last_bit, last_bit = masks
    for i in range(batch):
        for y in range(gh):
            for x in range(gw):
                a = 0 if weight[i, 0, y, x] > 0 else 1
                one, (top, left) = image[i, a, y, x], divmod(token[i, a, y, x], gw)
                two, (low, near) = image[i, 1, y, x], divmod(token[i, 1, y, x], gw)
                half = weight[i, a, y, x] < 1
                for channel in range(channels):
                    for row in range(rows):
                        for k in range(columns):
                            word = images[one, channel, top * rows + row, left * columns + k]
                            if half:
                                other = images[two, channel, low * rows + row, near * columns + k]
                                differ = word ^ other
                                down = (word & other) + ((differ & no_last_bit) >> 1)
                                word = down + (differ & down & last_bit)
                            mixed[i, channel, y * rows + row, x * columns + k] = word
