"""Where a row lies: row of the store <-> shard and row inside it."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sharding:
    """`rows` rows in shards of `shard_rows`, part by part; only the last shard of a part may be shorter.

    `earlier`: how many rows the store had before each extension, ascending; each began a part of its own.
    """

    rows: int
    shard_rows: int
    earlier: tuple[int, ...] = ()

    @property
    def shards(self) -> int:
        """Number of shards."""
        return self._first_shards[-1]

    def bounds(self, shard: int) -> tuple[int, int]:
        """First row of a shard and the row after its last; IndexError outside [0, shards)."""
        if not 0 <= shard < self.shards:
            raise IndexError(f"shard {shard}: expected 0 <= shard < {self.shards}")
        part = self.part(shard)
        start = self._first_rows[part] + (shard - self._first_shards[part]) * self.shard_rows
        return start, min(start + self.shard_rows, self._first_rows[part + 1])

    def part(self, shard: int) -> int:
        """In which part a shard is; 0 without extensions."""
        return bisect_right(self._first_shards, shard) - 1

    def shard_of(self, row: int) -> int:
        """The shard of a row inside the store."""
        part = bisect_right(self.earlier, row)
        return self._first_shards[part] + (row - self._first_rows[part]) // self.shard_rows

    def locate(self, rows: Rows) -> tuple[Rows, Rows]:
        """Shard and row inside it for rows [B]; IndexError for a row outside [0, rows)."""
        if rows.size and not (rows.min() >= 0 and rows.max() < self.rows):
            bad = rows[(rows < 0) | (rows >= self.rows)][0]
            raise IndexError(f"row {bad}: expected 0 <= row < {self.rows}")
        if not self.earlier:
            shard, row = np.divmod(rows, self.shard_rows)
            return shard, row
        part = np.searchsorted(self.earlier, rows, side="right")
        shard, row = np.divmod(rows - np.take(self._first_rows, part), self.shard_rows)
        return shard + np.take(self._first_shards, part), row

    @cached_property
    def _first_rows(self) -> tuple[int, ...]:
        """Of each part, and where the last ends."""
        return (0, *self.earlier, self.rows)

    @cached_property
    def _first_shards(self) -> tuple[int, ...]:
        """Of each part, and their number."""
        each = (-(-(stop - start) // self.shard_rows) for start, stop in pairwise(self._first_rows))
        return tuple(accumulate(each, initial=0))
