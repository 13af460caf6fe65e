"""What is left to chance in a batch that a loading process mixes: the same for any number of processes."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import torch

from tokenmix_loader.batch import NO_MAP, MapTarget


class BatchChance:
    """A random generator for each batch, from `seed`, the epoch, and the batch's rows and labels in their order.

    Shuffled epochs have batches that never came before, so rows and labels alone give new numbers. Where an epoch
    repeats the last one's batches, it is counted how often each came, in memory that all processes share, so that it
    is drawn anew. Processes need not agree on anything else: whichever of them gets a batch, it comes once per epoch.
    Counting starts at the epoch given to `set_epoch`, or at 0.

    Memory: 8 bytes per row of the store. A batch is counted at the first of its rows that has a map.
    """

    def __init__(self, seed: int, rows: int) -> None:
        """`rows`: number of rows of the store."""
        self._seed = seed
        self._epoch = _shared(torch.zeros(1, dtype=torch.int64))
        # Of the last batch counted there: 32 bits of its digest, and how often it came. Where an epoch takes no image
        # twice, its batches have different first rows, so that no two processes write to one place.
        self._last = _shared(torch.zeros(rows, 2, dtype=torch.int32))

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next, before its loader is iterated; all processes see it."""
        self._epoch.fill_(epoch)
        self._last.zero_()

    def rng_of(self, targets: MapTarget) -> np.random.Generator:
        """The generator of a batch on the CPU; labels count too, so that batches without any maps differ as well."""
        rows = targets.row.numpy()
        digest = blake2b(rows.tobytes() + targets.label.numpy().tobytes(), digest_size=16).digest()
        epoch = int(self._epoch) + self._count(rows, digest)
        return np.random.default_rng([self._seed, epoch, int.from_bytes(digest, "little")])

    def _count(self, rows: np.ndarray[tuple[int], np.dtype[np.int64]], digest: bytes) -> int:
        """How often this very batch came before; 0 for one without any map, which has no place to be counted."""
        mapped = rows[rows != NO_MAP]
        if not len(mapped):
            return 0
        last = self._last[int(mapped[0])].numpy()
        tag = int.from_bytes(digest[:4], "little", signed=True)
        earlier = int(last[1]) if last[0] == tag else 0
        last[:] = tag, earlier + 1
        return earlier


def _shared(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.share_memory_()  # type: ignore[no-untyped-call,no-any-return]
