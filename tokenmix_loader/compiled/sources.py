"""Pixels of mixed images whose tokens come from anywhere, as a compiled loop: the bytes of `mixing.pixels`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tokenmix_loader.compiled.jit import njit_cached

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@njit_cached
def mix_sources(images: Bytes, image: Ints, token: Ints, weight: Floats, mixed: Bytes) -> None:
    """Write to `mixed` what `images` [B, C, H, W] show at the sources, each [B, S, gh, gw]."""
    batch, channels, height, width = images.shape
    _, layers, gh, gw = image.shape
    rows, columns = height // gh, width // gw
    sums = np.empty(columns, np.float32)
    for i in range(batch):
        for y in range(gh):
            for x in range(gw):
                whole = -1
                for s in range(layers):
                    if weight[i, s, y, x] == 1:
                        whole = s
                for channel in range(channels):
                    for row in range(rows):
                        to = mixed[i, channel, y * rows + row, x * columns : (x + 1) * columns]
                        if whole >= 0:
                            top, left = divmod(token[i, whole, y, x], gw)
                            of = images[image[i, whole, y, x], channel, top * rows + row]
                            for k in range(columns):
                                to[k] = of[left * columns + k]
                            continue
                        sums[:] = 0
                        for s in range(layers):
                            share = weight[i, s, y, x]
                            if share > 0:
                                top, left = divmod(token[i, s, y, x], gw)
                                of = images[image[i, s, y, x], channel, top * rows + row]
                                for k in range(columns):
                                    sums[k] += share * np.float32(of[left * columns + k])
                        for k in range(columns):
                            to[k] = np.uint8(np.rint(sums[k]))
