"""Which image each decoding process has in hand, so that one that hangs, or kills its process, can be named."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.utils.data import get_worker_info

LONG_S = 5.0  # an image that takes longer is named in the message of a stop that ended the waiting for it


class Waiting(NamedTuple):
    """An image that is being read or decoded, and for how long."""

    key: str
    seconds: float


class InHand:
    """Of each decoding process the row that it reads or decodes, and since when; shared by all of them."""

    def __init__(self, keys: Sequence[str], processes: int) -> None:
        """`keys` of all rows. `processes`: their number; where it is 0 the job itself decodes."""
        self._keys = keys
        # row, or -1; time.monotonic_ns(), which all processes of a machine share
        self._table = torch.full((max(processes, 1), 2), -1, dtype=torch.int64)
        if processes:
            self._table.share_memory_()  # type: ignore[no-untyped-call]

    def take(self, row: int) -> None:
        """This process begins with a row."""
        place = _place()
        self._table[place, 1] = time.monotonic_ns()
        self._table[place, 0] = row

    def put_down(self) -> None:
        """This process is done with its row."""
        self._table[_place(), 0] = -1

    def of(self, process: int) -> str | None:
        """The key of the image that a process has in hand, or had when it died."""
        row = int(self._table[process, 0])
        return None if row < 0 else self._keys[row]

    def longest(self) -> Waiting | None:
        """The image that is in hand for longest; may be asked from any thread."""
        held = [(since, row) for row, since in self._table.tolist() if row >= 0]
        if not held:
            return None
        since, row = min(held)
        return Waiting(self._keys[row], (time.monotonic_ns() - since) / 1e9)

    def __str__(self) -> str:
        """What a job is waiting for that waits for its next images."""
        waiting = self.longest()
        if waiting is None or waiting.seconds < LONG_S:
            return "waiting for images"
        return f"reading {waiting.key!r} ({waiting.seconds:.0f} s so far)"


def _place() -> int:
    info = get_worker_info()
    return 0 if info is None else info.id
