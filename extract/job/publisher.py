"""From rows to shards on the disk, in a thread beside the teacher."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from extract.job.processes.in_hand import Waiting
from extract.job.shard_queue import ShardQueue, retry_while_unreachable
from store import Header, RowBatch
from store.spec import Json

QUEUED_BATCHES = 8  # between the teacher and the disk: bounds the memory when the disk is slower


class Publisher:
    """Appends row batches to shards in order, in one thread of its own; the last batch of a shard publishes it."""

    def __init__(self, header: Header, queue: ShardQueue, note: Callable[[], dict[str, Json]]):
        """`note` returns what other workers are told with every sign of life."""
        self.write_s = 0.0  # spent in the thread
        self._header, self._queue, self._note = header, queue, note
        self._failed = False
        self._pending: deque[Future[None]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="publish")

    def append(self, first_row: int, rows: RowBatch) -> bool:
        """Queue a batch; True when it completes its shard. Raises what an earlier write raised."""
        shard = self._header.sharding.shard_of(first_row)
        last = first_row + len(rows.key) == self._header.sharding.bounds(shard)[1]
        self._pending.append(self._thread.submit(self._write, shard, rows, last))
        while len(self._pending) > QUEUED_BATCHES or (self._pending and self._pending[0].done()):
            self._pending.popleft().result()
        return last

    def flush(self) -> None:
        """Wait until all that is queued is on the disk. Raises what a write raised."""
        while self._pending:
            self._pending.popleft().result()

    def tell_slow(self, waiting: Waiting) -> None:
        """Leave word in our claims that an image takes too long; may be called from another thread.

        Once: without further signs of life others take the shards over, for whom the image may be read at once.
        """
        note = {**self._note(), "waits_for": waiting.key[:500], "waits_s": round(waiting.seconds, 1)}
        self._thread.submit(self._queue.leave, note)

    def _write(self, shard: int, rows: RowBatch, last: bool) -> None:
        if self._failed:  # rows queued behind a failed write belong to a shard that is not complete
            return
        started = time.monotonic()
        try:
            self._queue.writers[shard].append(rows)
            if last:
                retry_while_unreachable(self._queue.writers[shard].publish)
                del self._queue.writers[shard]
            self._queue.beat(self._note())
        except BaseException:
            self._failed = True
            raise
        self.write_s += time.monotonic() - started

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown()  # writes what is queued: complete shards are published even when the job fails
        self._queue.discard()
        if kind is None:
            self.flush()
