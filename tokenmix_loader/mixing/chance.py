"""What is left to chance in a batch that a loading process mixes: the same for any number of processes."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import torch

from tokenmix_loader.batch import NO_MAP, MapTarget

_COUNT_BITS = 23  # of an entry; 40 more hold the tag: one number, so that no process sees half of an entry


class BatchChance:
    """A random generator for each batch, from `seed`, the epoch, and the batch's rows and labels in their order.

    Shuffled epochs have batches that never came before, so rows and labels alone give new numbers. Where an epoch
    repeats the last one's batches, it is counted how often each came, in memory that all processes share, so that it
    is drawn anew. Processes need not agree on anything else: whichever of them gets a batch, it comes once per epoch.
    Counting starts at the epoch given to `set_epoch`, or at 0.

    Two limits, both of samplers that do not shuffle. A batch without any map is not counted, because only its labels
    tell it from others: it is drawn anew only if `set_epoch` is called before each epoch. And where the very same batch
    comes twice within an epoch, several processes may swap its draws: no process knows which came first. Samplers that
    shuffle and take an image several times, such as timm's RepeatAugSampler or torch's WeightedRandomSampler, meet
    neither: the whole batch would have to come again, in its order.

    Memory: 8 bytes per row of the store.
    """

    def __init__(self, seed: int, rows: int) -> None:
        """`rows`: number of rows of the store."""
        self._seed = seed
        self._epoch = _shared(torch.zeros(1, dtype=torch.int64))
        # An entry is a batch's tag and how often it came, at one of the batch's rows. Where an epoch takes no image
        # twice, its batches share no row, so that no two processes write to one place.
        self._counted = _shared(torch.zeros(rows, dtype=torch.int64))

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next, before its loader is iterated; all processes see it."""
        self._epoch.fill_(epoch)
        self._counted.zero_()

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
        tag = int.from_bytes(digest[:5], "little")
        counted = self._counted.numpy()
        entries = counted[mapped]
        own = mapped[entries >> _COUNT_BITS == tag]
        if len(own):
            earlier = int(counted[own[0]] % 2**_COUNT_BITS)
            counted[own[0]] += 1
            return earlier
        # Other batches with some of these images keep their entries while a place is free.
        free = mapped[entries == 0]
        places = free if len(free) else mapped
        counted[places[tag % len(places)]] = (tag << _COUNT_BITS) + 1
        return 0


def _shared(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.share_memory_()  # type: ignore[no-untyped-call,no-any-return]
