"""Which shard next: this worker's own in order, then those of others that no one has begun.

Workers do not send each other messages. Before every shard they read the store's folder: a finished shard is there
under its name, a begun one as its writer's claim (store/folder/claims.py). Claims are hints: at worst a shard is
computed twice, to the same bytes.
"""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Callable, Container
from pathlib import Path
from typing import Protocol, TypeVar

from extract.settings.worker import Worker
from store import Header, ShardWriter
from store.folder.claims import SILENT_S, Claim, Listing, list_shards
from store.spec import Json

BEAT_S = 10.0  # between two signs of life: rare enough for the metadata server of a file system with 1,000 workers
MAX_PAUSE_S = 5.0  # between two readings of the folder while others finish
SETTLE_S = 2.0  # twice the time until all workers see what one has written
OUTAGE_S = 600.0  # how long a folder may be unreachable

_AWAY = (errno.ENOENT, errno.ESTALE, errno.EIO, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH)
T = TypeVar("T")


def retry_while_unreachable(action: Callable[[], T]) -> T:
    """The result of `action`, repeated for up to OUTAGE_S while the store's folder cannot be reached."""
    end, pause_s = time.monotonic() + OUTAGE_S, 0.1
    while True:
        try:
            return action()
        except OSError as error:
            if error.errno not in _AWAY or time.monotonic() > end:
                raise
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 10.0)


class Claims(Protocol):
    """How a worker sees and makes claims: in the folder of the store, or in a simulation of it."""

    def taken(self) -> Container[int]:
        """Shards that are finished, or claimed by a worker that seems alive."""

    def begin(self, shard: int) -> None:
        """Claim a shard."""

    def keep(self, shard: int) -> bool:
        """Whether our claim on the shard is the first of those by workers that seem alive; else it is given up."""


class ShardChoice:
    """Decides which shard this worker computes next; knows neither files nor clocks."""

    def __init__(self, worker: Worker, shards: int, claims: Claims):
        self._worker, self._shards, self._claims = worker, shards, claims
        self._claimed: int | None = None
        self._due_s = 0.0

    def take(self, now_s: float) -> int | None:
        """The shard to compute now; None when there is none, or not yet: then ask again.

        Several workers may finish their shares at the same time and claim the same shard of another before they see
        each other's claims. So a claim on another's shard is checked again after SETTLE_S; of several, only the first
        by name is kept.
        """
        while True:
            if self._claimed is None:
                self._claimed = self._worker.next_shard(self._shards, self._claims.taken())
                if self._claimed is None:
                    return None
                self._claims.begin(self._claimed)
                self._due_s = now_s + (0 if self._worker.owns(self._claimed) else SETTLE_S)
            if now_s < self._due_s:
                return None
            shard, self._claimed = self._claimed, None
            if self._claims.keep(shard):
                return shard


class ShardQueue:
    """The shards of a store that are still to be computed, and the writers of those that this worker has claimed."""

    def __init__(self, store: Path, header: Header, worker: Worker):
        self._choice = ShardChoice(worker, header.sharding.shards, self)
        self.writers: dict[int, ShardWriter] = {}
        self._begun: set[int] = set()  # all that we ever claimed: a folder read during a rename may show neither name
        self._store, self._header, self._worker = store, header, worker
        self._last_note, self._last_batch = -math.inf, time.monotonic()
        self._longest_gap_s = 0.0
        self._last_signs: dict[str, tuple[float, float]] = {}  # claim -> its last sign of life, when we first saw it

    def take(self) -> int | None:
        """Claim the next shard, as `ShardChoice.take`; its writer is then in `writers`."""
        self._last_batch = time.monotonic()  # time spent without a shard is no batch
        return self._choice.take(time.monotonic())

    def wait(self, stop: Callable[[], bool]) -> int | None:
        """Claim a shard; None when all are in place, or on `stop`.

        While others work on all the missing shards, wait: if one of them dies, we do its shard. That takes no longer
        than one shard of the slowest worker.
        """
        pause_s = 0.1
        while not stop():
            if (shard := self.take()) is not None or not self.unfinished():
                return shard
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)
        return None

    def total(self) -> int:
        """Rows of all shards that this worker has begun so far, and of those of its share that no one has begun."""
        share = set(self._worker.share(range(self._header.sharding.shards)))
        bounds = [self._header.sharding.bounds(shard) for shard in self._begun | (share - self.taken())]
        return sum(stop - start for start, stop in bounds)

    def unfinished(self) -> list[int]:
        """Shards of all workers that are not in place."""
        finished = self._look().finished
        return [shard for shard in range(self._header.sharding.shards) if shard not in finished]

    def taken(self) -> set[int]:
        """Finished shards, those with a claim that seems alive, and all of our own."""
        listing = self._look()
        return self._begun.union(listing.finished, (claim.shard for claim in listing.claims if self._lives(claim)))

    def begin(self, shard: int) -> None:
        """Claim a shard."""
        self.writers[shard] = retry_while_unreachable(lambda: ShardWriter(self._store, self._header, shard))
        self._begun.add(shard)

    def keep(self, shard: int) -> bool:
        """Whether our claim is the first by name; else it is given up. Claims without signs of life are removed."""
        ours = self.writers[shard].temporary.name
        for claim in self._look().claims:
            if claim.shard != shard or claim.path.name == ours:
                continue
            if not self._lives(claim):
                claim.path.unlink(missing_ok=True)  # should its writer go on, it creates a new file
            elif claim.path.name < ours:
                self.writers.pop(shard).discard()
                self._begun.remove(shard)
                return False
        return True

    def beat(self, note: dict[str, Json]) -> None:
        """Give a sign of life on every claim; to be called from the thread that writes, after every batch."""
        now = time.monotonic()
        self._longest_gap_s = max(self._longest_gap_s, now - self._last_batch)
        self._last_batch = now
        if now - self._last_note >= BEAT_S:
            self._last_note = now
            self.leave(note)

    def leave(self, note: dict[str, Json]) -> None:
        """Leave a note on every claim, which is a sign of life, too; from the thread that writes."""
        for writer in list(self.writers.values()):
            writer.beat(note)

    def discard(self) -> None:
        """Give up all claims."""
        for writer in self.writers.values():
            writer.discard()
        self.writers.clear()

    def _look(self) -> Listing:
        return retry_while_unreachable(lambda: list_shards(self._store, self._header))

    def _lives(self, claim: Claim) -> bool:
        """Whether its writer gave a sign of life lately.

        Where our own batches take long, others' may, too, so the limit grows with them. If a clock was set back, a
        sign of life may lie in the future, so we also measure for how long it has not changed.
        """
        now = time.monotonic()
        heard, since = self._last_signs.get(claim.path.name, (math.nan, now))
        if heard != claim.last_beat:
            self._last_signs[claim.path.name] = claim.last_beat, (since := now)
        return not claim.dead and max(claim.age_s, now - since) <= max(SILENT_S, 4 * self._longest_gap_s)
