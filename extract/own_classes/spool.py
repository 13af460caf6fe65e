"""Features of many images, on the disk, read in blocks: memory does not grow with the number of images."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
SMALLEST_OF_TYPICAL = 1e-3  # of the root mean square of all channels' deviations
SMALLEST_OF_MEAN = 1e-3  # of the channel's own mean


class Spool:
    """Rows float32 [N, C] in a file without a name, which is gone with the process, however that ends."""

    def __init__(self, folder: Path):
        self._file = tempfile.TemporaryFile(dir=folder, prefix="features-")  # noqa: SIM115 -- closed by __exit__
        self.channels = self._rows = 0

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._rows

    def append(self, rows: Float32) -> None:
        """Add rows [n, C] behind the others."""
        self.channels = rows.shape[1]
        self._write(self._rows, rows)
        self._rows += len(rows)

    def blocks(self, rows_at_once: int) -> Iterator[tuple[int, Float32]]:
        """The first row's number and the rows, block by block."""
        for start in range(0, len(self), rows_at_once):
            count = min(rows_at_once, len(self) - start)
            rows = np.empty((count, self.channels), np.float32)
            self._file.seek(start * rows.strides[0])
            self._file.readinto(rows.data)
            yield start, rows

    def standardise(self, rows_at_once: int = 1024) -> tuple[Float32, Float32]:
        """Bring every channel to mean 0 and deviation 1 in place; returns what they were, [C] each.

        The deviation of a channel that hardly changes is taken as larger than it is, by SMALLEST_*: its weight in a
        head would be so large that rounding errors of features would become errors of logits.
        """
        exact_mean, found = self._moments(rows_at_once)
        least = max(SMALLEST_OF_TYPICAL * float(np.sqrt((found**2).mean())), float(np.finfo(np.float32).tiny))
        deviation = np.maximum(np.maximum(found, SMALLEST_OF_MEAN * np.abs(exact_mean)), least).astype(np.float32)
        mean = exact_mean.astype(np.float32)
        for start, rows in self.blocks(rows_at_once):
            self._write(start, (rows - mean) / deviation)
        return mean, deviation

    def _moments(self, rows_at_once: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Mean and standard deviation, by two passes."""
        total = np.zeros(self.channels)
        for _, rows in self.blocks(rows_at_once):
            total += rows.sum(0, np.float64)
        mean = total / len(self)
        squares = np.zeros(self.channels)
        for _, rows in self.blocks(rows_at_once):
            squares += ((rows - mean) ** 2).sum(0)
        return mean, np.asarray(np.sqrt(squares / len(self)))

    def _write(self, start: int, rows: Float32) -> None:
        self._file.seek(start * rows.strides[0])
        self._file.write(np.ascontiguousarray(rows, np.float32).data)
