"""Writing shards: in memory until complete, then on the disk as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np

from store.errors import ShardError, StoreError
from store.folder.claims import leave_note
from store.folder.files import StrPath, begin_temporary, complete_temporary, end_temporary, write_synced
from store.format.check_shard import check_shard
from store.format.header import Header
from store.format.rows import RowBatch, batch_table
from store.format.shard import shard_bytes
from store.format.table import Table
from store.spec import Json, shard_name


class ShardWriter:
    """Collects the rows of one shard and publishes them as a whole; a context manager.

    with ShardWriter(path, header, 7) as writer:
        writer.append(batch)  # until the shard is full
        writer.publish()

    Leaving the context without `publish` leaves nothing behind. `temporary` is the file beside the shard's place.
    """

    def __init__(self, path: StrPath, header: Header, shard: int) -> None:
        """Create the temporary file beside the shard's place; IndexError if there is no such shard."""
        start, stop = header.sharding.bounds(shard)
        self._header, self._shard, self._rows = header, shard, stop - start
        self._target = Path(path) / shard_name(shard)
        self._tables: list[Table] = []
        self._appended = 0
        self.temporary = begin_temporary(self._target)

    def append(self, batch: RowBatch) -> None:
        """Take the next rows, copied; StoreError for a wrong dtype, shape, or row, and for too many rows."""
        b = len(batch.key)
        if self._appended + b > self._rows:
            found = f"found {b} more after {self._appended}"
            raise StoreError(f"{self._target}: expected {self._rows} rows, {found}; append each row once")
        if b:
            self._tables.append(batch_table(self._header, batch))
            self._appended += b

    def beat(self, note: Mapping[str, Json]) -> None:
        """Show those who look at the folder that this shard is being worked on; see store/folder/claims.py."""
        leave_note(self.temporary, note)

    def publish(self) -> Path:
        """Write, sync, read back and check, then rename into place; ShardError if anything is not as given."""
        if self._appended != self._rows:
            raise ShardError(
                f"{self._target}: expected {self._rows} rows, found {self._appended}; append the rest first"
            )
        table = {name: np.concatenate([part[name] for part in self._tables]) for name in self._tables[0]}
        write_synced(self.temporary, shard_bytes(self._header, self._shard, table))
        problems, _ = check_shard(self.temporary, self._header, self._shard)
        if problems:
            raise ShardError(f"{self.temporary}: read back wrong: {problems[0]}; check the disk")
        complete_temporary(self.temporary, self._target)
        self._tables.clear()  # last: after a fault on the way it can be published again
        return self._target

    def __enter__(self) -> ShardWriter:
        """Nothing to do: the file was created with the object."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Discard what was not published."""
        self.discard()

    def discard(self) -> None:
        """Drop the rows and the temporary file; nothing happens after `publish`."""
        self._tables.clear()
        end_temporary(self.temporary)
