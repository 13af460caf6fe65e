"""Fill a store with rows from any source: the teacher's (run.py) or published files (extract/published).

A shard is the unit of work, retry and resume. Batches never span two shards, so what a shard contains does not
depend on which shards were there before, and a job killed and resumed gives the store of an undisturbed one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from extract.job.processes.in_hand import Waiting
from extract.job.processes.patience import reporting_slow, spell_slow
from extract.job.processes.signals import Stopped
from extract.job.progress import Progress, Report
from extract.job.publisher import Publisher
from extract.job.shard_queue import ShardQueue
from extract.settings.worker import Worker
from store import Header, RowBatch, create_store
from store.checking.predictions import Confusion
from store.folder.files import discard_leftovers
from store.folder.head import Head, write_head


class Rows(NamedTuple):
    """B consecutive rows of one shard, and for the running accuracy the teacher's top-1 of each, int32 [B], or -1."""

    first: int
    batch: RowBatch
    top1: npt.NDArray[np.int32]


class RowSource(Protocol):
    """Where rows come from."""

    def __call__(self, row_numbers: Iterator[range], progress: Progress, /) -> Iterator[Rows]:
        """The rows of the batches that are wanted, in that order.

        It may ask for several batches ahead, adds the time that it takes to the progress, and raises Stopped where a
        stop signal ends its waiting.
        """

    def in_hand(self) -> Waiting | None:
        """The image that it has been reading for longest; asked from another thread."""


def fill_store(
    store: Path,
    header: Header,
    source: RowSource,
    *,
    batch_size: int,
    worker: Worker,
    max_errors: int | None,
    earlier_keys: Sequence[str] = (),
    head: Head | None = None,
    on_progress: Callable[[Progress], None],
    stop: Callable[[], bool],
    say: Callable[[str], None],
) -> Report:
    """Create the store if need be, fill this worker's share of it, then help the others until no shard is missing.

    `earlier_keys`: those from before the last extension. `max_errors`: unreadable rows to accept; None: 0.1 % of all
    rows, rounded up. `say` is told of images that take long to read, and of what a stop found the job waiting for.

    Raises StoreMismatch where another configuration is stored, StoreError where it cannot be written, ImagesError
    beyond `max_errors`, and what the source raises; published shards survive every one of these.
    """
    create_store(store, header, earlier_keys)
    if head is not None:
        write_head(store, header, head)
    discard_leftovers(store)
    allowed = math.ceil(header.rows / 1000) if max_errors is None else max_errors
    queue = ShardQueue(store, header, worker)
    progress = Progress(queue.total(), confusion=Confusion(header.teacher_class))
    shards_written, started = 0, time.monotonic()
    with Publisher(header, queue, progress.note) as publisher, _reporting(source, publisher, say):
        while (first := queue.wait(stop)) is not None:
            wanted = _row_numbers(header, queue, first, batch_size, progress)
            for rows in _until_stopped(source(wanted, progress), say):
                if stop():
                    break
                progress.count(rows.batch, rows.top1)
                progress.refuse_errors_beyond(allowed)
                shards_written += publisher.append(rows.first, rows.batch)
                progress.seconds, progress.write_s = time.monotonic() - started, publisher.write_s
                on_progress(progress)
            publisher.flush()
    unfinished = queue.unfinished()
    return Report(progress, shards_written, not any(map(worker.owns, unfinished)), stopped=bool(unfinished))


def _until_stopped(rows: Iterator[Rows], say: Callable[[str], None]) -> Iterator[Rows]:
    try:
        yield from rows
    except Stopped as stopped:
        say(f"stopped while {stopped}")


def _reporting(source: RowSource, publisher: Publisher, say: Callable[[str], None]) -> AbstractContextManager[None]:
    """Slow images are named on the terminal or in the log, and in the claims that `tokenmix status` reads."""

    def report(waiting: Waiting) -> None:
        publisher.tell_slow(waiting)
        say(spell_slow(waiting))

    return reporting_slow(source.in_hand, report)


def _row_numbers(header: Header, queue: ShardQueue, first: int, batch_size: int, progress: Progress) -> Iterator[range]:
    """Batch by batch, the last of a shard perhaps smaller; the next shard is claimed when the source asks for it."""
    shard: int | None = first
    while shard is not None:
        progress.total = queue.total()
        start, stop = header.sharding.bounds(shard)
        for at in range(start, stop, batch_size):
            yield range(at, min(at + batch_size, stop))
        shard = queue.take()
