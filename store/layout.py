"""Where a row lies: row of the store <-> shard and row inside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


def shard_name(shard: int) -> str:
    """File name of a shard."""
    return f"shard-{shard:05d}.h5"


@dataclass(frozen=True)
class Layout:
    """`rows` rows in shards of `shard_rows`; only the last shard may be shorter."""

    rows: int
    shard_rows: int

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.rows // self.shard_rows)

    def bounds(self, shard: int) -> tuple[int, int]:
        """First row of a shard and the row after its last; IndexError outside [0, shards)."""
        if not 0 <= shard < self.shards:
            raise IndexError(f"shard {shard}: expected 0 <= shard < {self.shards}")
        start = shard * self.shard_rows
        return start, min(start + self.shard_rows, self.rows)

    def locate(self, rows: Rows) -> tuple[Rows, Rows]:
        """Shard and row inside it for rows [B]; IndexError for a row outside [0, rows)."""
        if rows.size and not (rows.min() >= 0 and rows.max() < self.rows):
            bad = rows[(rows < 0) | (rows >= self.rows)][0]
            raise IndexError(f"row {bad}: expected 0 <= row < {self.rows}")
        shard, row = np.divmod(rows, self.shard_rows)
        return shard, row
