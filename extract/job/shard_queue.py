"""Which shard next: this worker's own in order, then those of others that nobody is at work on.

Workers never talk. They look at the store's folder before every shard: a finished shard has its name, a begun one
its writer's claim (store/folder/claims.py). Claims are hints: at worst a shard is computed twice, to the same bytes.
"""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Callable, Container
from pathlib import Path
from typing import Protocol, TypeVar

from extract.worker import Worker
from store import Header, ShardWriter
from store.folder.claims import Claim, Listing, list_shards
from store.format.header import Json

BEAT_S = 10.0  # between signs of life: rare enough for the metadata server of a file system with 1,000 workers
MAX_PAUSE_S = 5.0  # between two looks at the folder while others finish
SETTLE_S = 2.0  # until what one worker writes is seen by all others, twice over
OUTAGE_S = 600.0  # for which a folder may be away
SILENT_S = 120.0  # a claim without a sign of life for longer is nobody's

_AWAY = (errno.ENOENT, errno.ESTALE, errno.EIO, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH)
T = TypeVar("T")


def outlast(action: Callable[[], T]) -> T:
    """`action`, again and again for OUTAGE_S while the store's folder cannot be reached: network folders come back."""
    end, pause_s = time.monotonic() + OUTAGE_S, 0.1
    while True:
        try:
            return action()
        except OSError as error:
            if error.errno not in _AWAY or time.monotonic() > end:
                raise
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 10.0)


class Board(Protocol):
    """What workers see of each other: the folder of the store, or a simulation of it."""

    def taken(self) -> Container[int]:
        """Shards that are finished, or begun by a worker that seems alive."""

    def begin(self, shard: int) -> None:
        """Claim a shard."""

    def keep(self, shard: int) -> bool:
        """Whether ours is the first of the claims on this shard by workers that seem alive; else it is dropped."""


class Turns:
    """Decides which shard this worker computes next; knows neither files nor the time."""

    def __init__(self, worker: Worker, shards: int, board: Board):
        self._worker, self._shards, self._board = worker, shards, board
        self._claimed: int | None = None
        self._due_s = 0.0

    def take(self, now_s: float) -> int | None:
        """The shard to compute now; None when there is none, or not yet: then ask again.

        Many may run out at once and claim the same shard of another's share before they see each other. So such a
        claim is looked at again after SETTLE_S, and all but the first, by name, give way.
        """
        while True:
            if self._claimed is None:
                self._claimed = self._worker.next_shard(self._shards, self._board.taken())
                if self._claimed is None:
                    return None
                self._board.begin(self._claimed)
                self._due_s = now_s + (0 if self._claimed in self._worker.share([self._claimed]) else SETTLE_S)
            if now_s < self._due_s:
                return None
            shard, self._claimed = self._claimed, None
            if self._board.keep(shard):
                return shard


class ShardQueue:
    """This worker's view of the folder, and the writers of the shards that it has claimed; a `Board`."""

    def __init__(self, store: Path, header: Header, worker: Worker):
        self._turns = Turns(worker, header.layout.shards, self)
        self.writers: dict[int, ShardWriter] = {}
        self._begun: set[int] = set()  # by us, ever: a folder read during a rename may show neither name
        self._store, self._header, self._worker = store, header, worker
        self._last_note, self._last_batch = -math.inf, time.monotonic()
        self._longest_gap_s = 0.0
        self._heard: dict[str, tuple[float, float]] = {}  # of each claim its last sign of life, and when we saw it

    def take(self) -> int | None:
        """Claim the next shard, as `Turns.take`; its writer is then in `writers`."""
        self._last_batch = time.monotonic()  # time spent without a shard is no batch
        return self._turns.take(time.monotonic())

    def wait(self, stop: Callable[[], bool]) -> int | None:
        """Claim a shard; None when all are in place, or on `stop`.

        While others are at work on all that is missing, wait: should one fall silent, its shard must not be lost. That
        takes no longer than one shard of the slowest worker.
        """
        pause_s = 0.1
        while not stop():
            if (shard := self.take()) is not None or not self.unfinished():
                return shard
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)
        return None

    def total(self) -> int:
        """Rows of all shards begun so far, and of those of this worker's share that nobody has begun."""
        ours = self._begun | (set(self._worker.share(range(self._header.layout.shards))) - self.taken())
        bounds = [self._header.layout.bounds(shard) for shard in ours]
        return sum(stop - start for start, stop in bounds)

    def unfinished(self) -> list[int]:
        """Shards of all workers that are not in place."""
        finished = self._look().finished
        return [shard for shard in range(self._header.layout.shards) if shard not in finished]

    def taken(self) -> set[int]:
        """Finished shards, those with a claim that seems alive, and all of our own."""
        listing = self._look()
        return self._begun.union(listing.finished, (claim.shard for claim in listing.claims if self._lives(claim)))

    def begin(self, shard: int) -> None:
        """Claim a shard."""
        self.writers[shard] = outlast(lambda: ShardWriter(self._store, self._header, shard))
        self._begun.add(shard)

    def keep(self, shard: int) -> bool:
        """Whether ours is the first claim by name; else it is dropped. Claims of the silent are removed."""
        ours = self.writers[shard].temporary.name
        for claim in self._look().claims:
            if claim.shard != shard or claim.path.name == ours:
                continue
            if not self._lives(claim):
                claim.path.unlink(missing_ok=True)  # its writer, should it wake up, begins a new file
            elif claim.path.name < ours:
                self.writers.pop(shard).discard()
                self._begun.remove(shard)
                return False
        return True

    def beat(self, note: dict[str, Json]) -> None:
        """A sign of life on every claim; to be called from the thread that writes, after every batch."""
        now = time.monotonic()
        self._longest_gap_s = max(self._longest_gap_s, now - self._last_batch)
        self._last_batch = now
        if now - self._last_note >= BEAT_S:
            self._last_note = now
            for writer in list(self.writers.values()):
                writer.beat(note)

    def discard(self) -> None:
        """Give up all claims."""
        for writer in self.writers.values():
            writer.discard()
        self.writers.clear()

    def _look(self) -> Listing:
        return outlast(lambda: list_shards(self._store, self._header))

    def _lives(self, claim: Claim) -> bool:
        """A slow worker's batches take long for others too, so patience grows with our own.

        A clock that was set back makes signs of life from the future, so we also count how long one has not changed.
        """
        now = time.monotonic()
        heard, since = self._heard.get(claim.path.name, (math.nan, now))
        if heard != claim.heard:
            self._heard[claim.path.name] = claim.heard, (since := now)
        return not claim.dead and max(claim.age_s, now - since) <= max(SILENT_S, 4 * self._longest_gap_s)
