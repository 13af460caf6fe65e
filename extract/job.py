"""The job: decode in worker processes, run the teacher here, write and publish shards in a thread of its own.

A shard is the unit of work, retry and resume. Batches never span two shards, so what a shard contains does not
depend on which shards were there before, and a job killed and resumed gives the store of an undisturbed one.
"""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from extract.errors import ExtractError, ImagesError, TeacherError
from extract.images import ImageList
from extract.preprocess import Batch, Decoder
from extract.signals import ignore_stop_signals
from extract.teacher import LabelMaps, Teacher
from extract.worker import Worker
from store import (
    STATUS_OK,
    STATUS_UNREADABLE,
    Header,
    RowBatch,
    ShardWriter,
    create_store,
    discard_leftovers,
    present_shards,
)

DEFAULT_SHARD_ROWS = 4096
# Workers of a forkserver (Python 3.14's default) never notice that a killed job is gone, and stay for ever.
START_METHOD = "fork" if sys.platform == "linux" else None
QUEUED_BATCHES = 8  # between the teacher and the disk: bounds the memory when the disk is slower


@dataclass(frozen=True)
class JobOptions:
    """How to run; of these only `dtype` and `shard_rows` are part of what is stored."""

    dtype: str = "float16"
    shard_rows: int = DEFAULT_SHARD_ROWS
    batch_size: int = 32
    workers: int = 4
    worker: Worker = field(default_factory=Worker)
    max_errors: int | None = None  # None: 0.1 % of the rows, rounded up


@dataclass
class Progress:
    """What is known while the job runs; `seconds` counts from the first batch asked for."""

    total: int  # rows of this worker's share that were missing at start
    done: int = 0
    correct: int = 0
    readable: int = 0
    seconds: float = 0.0
    errors: list[tuple[str, str]] = field(default_factory=list)  # key, reason

    @property
    def rate(self) -> float:
        """Images per second of this run."""
        return self.done / self.seconds if self.seconds else 0.0

    @property
    def top1(self) -> float:
        """The teacher's share of right answers so far; NaN before the first readable image."""
        return self.correct / self.readable if self.readable else math.nan


@dataclass(frozen=True)
class Report:
    """How a run ended. `complete`: every shard of this worker's share is in place."""

    progress: Progress
    shards_written: int
    complete: bool
    stopped: bool


def make_header(images: ImageList, teacher: Teacher, options: JobOptions) -> Header:
    """All that decides the content of the store. Raises ImagesError when the classes do not match."""
    if len(images.class_names) != teacher.num_classes:
        raise ImagesError(
            f"{images.root}: expected {teacher.num_classes} classes, as --teacher {teacher.spec.name} has, found "
            f"{len(images.class_names)} class folders; give a --checkpoint with --num-classes "
            f"{len(images.class_names)}, or a --class-map that names all {teacher.num_classes} classes in order"
        )
    return Header(
        kind="label",
        teacher=teacher.header(),
        preprocessing=teacher.preprocessing.header(),
        grid=teacher.grid,
        dtype=options.dtype,
        rows=len(images),
        shard_rows=options.shard_rows,
        dataset=images.header(),
        versions={name: version(name) for name in ("tokenmix-maps", "torch", "torchvision", "timm", "h5py", "pillow")},
    )


def run_job(
    images: ImageList,
    store: str | Path,
    teacher: Teacher,
    options: JobOptions,
    *,
    on_progress: Callable[[Progress], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> Report:
    """Fill this worker's share of the store; shards that are there are kept, so a second call resumes.

    `on_progress` is called after every batch; `stop` is asked before every batch and drops the shard in flight.

    Raises StoreMismatch (another configuration is stored), StoreError (cannot be written), TeacherError (NaN, or
    a logit beyond the dtype), ImagesError (an image cannot be read from the file system, or more than
    `max_errors` cannot be decoded). Published shards survive every one of these.
    """
    store = Path(store)
    header = make_header(images, teacher, options)
    create_store(store, header)
    discard_leftovers(store)
    present = set(present_shards(store, header))
    todo = options.worker.share(shard for shard in range(header.layout.shards) if shard not in present)
    batches = _batches(header, todo, options.batch_size)
    progress = Progress(total=sum(len(batch) for batch in batches))
    written = 0
    started = time.monotonic()
    with _Publisher(store, header) as publisher:
        for batch in _decoded(images, teacher, batches, options):
            if stop():
                break
            rows = _row_batch(images, batch, _maps(teacher, images, batch), header)
            _count(progress, rows, options.max_errors, header.rows)
            written += publisher.append(batch.rows[0], rows)
            progress.seconds = time.monotonic() - started
            on_progress(progress)
    progress.seconds = time.monotonic() - started
    complete = not options.worker.share(set(range(header.layout.shards)) - set(present_shards(store, header)))
    return Report(progress, written, complete, stopped=progress.done < progress.total)


def _batches(header: Header, shards: list[int], batch_size: int) -> list[list[int]]:
    """Row numbers batch by batch; the last batch of a shard may be smaller."""
    bounds = [header.layout.bounds(shard) for shard in shards]
    return [
        list(range(at, min(at + batch_size, stop))) for start, stop in bounds for at in range(start, stop, batch_size)
    ]


def _decoded(images: ImageList, teacher: Teacher, batches: list[list[int]], options: JobOptions) -> Iterator[Batch]:
    decoder = Decoder(images, teacher.preprocessing)
    processes = min(options.workers, len(batches))
    loader: DataLoader[Any] = DataLoader(
        decoder,
        batch_sampler=batches,
        num_workers=processes,
        collate_fn=decoder.collate,
        pin_memory=teacher.device.type == "cuda",
        worker_init_fn=ignore_stop_signals,
        multiprocessing_context=START_METHOD if processes else None,
    )
    try:
        for batch in loader:
            if batch.fault:
                raise ImagesError(
                    f"{batch.fault}; the file system failed, not the image: check the mount and run again"
                )
            yield batch
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise ExtractError(
            f"{images.root}: a decoding process died: {error}; memory may be short: use fewer --workers"
        ) from error


def _maps(teacher: Teacher, images: ImageList, batch: Batch) -> LabelMaps:
    return teacher.label_maps(batch.pixels, torch.from_numpy(images.labels[batch.rows].astype(np.int64)))


def _row_batch(images: ImageList, batch: Batch, maps: LabelMaps, header: Header) -> RowBatch:
    """What is stored of a batch. An unreadable image has a zero map, prediction -1 and status 1."""
    keys = [images.keys[row] for row in batch.rows]
    readable = np.array([not error for error in batch.error])
    logits = np.where(readable[:, None, None], maps.logits.numpy(), np.float32(0))
    _check_range(logits, keys, header.dtype)
    return RowBatch(
        payload={"label_logit": logits.astype(header.dtype)},
        label=images.labels[batch.rows],
        prediction=np.where(readable, maps.prediction.numpy(), -1).astype(np.int32),
        size=batch.size,
        view=batch.view,
        status=np.where(readable, STATUS_OK, STATUS_UNREADABLE).astype(np.uint8),
        key=keys,
        error=batch.error,
    )


def _check_range(logits: np.ndarray[Any, np.dtype[np.float32]], keys: list[str], dtype: str) -> None:
    largest = float(np.finfo(dtype).max)
    fits = np.abs(logits) <= largest  # False for NaN
    if fits.all():
        return
    row = int(np.flatnonzero(~fits.all((1, 2)))[0])
    value = logits[row][~fits[row]][0]
    raise TeacherError(
        f"{keys[row]!r}: expected finite logits of at most {largest:g} ({dtype}), found {value:g}; "
        + ("use --dtype float32" if np.isfinite(value) else "use --amp none, or check the teacher's weights")
    )


def _count(progress: Progress, rows: RowBatch, max_errors: int | None, total_rows: int) -> None:
    """Add a batch to the progress. Raises ImagesError beyond `max_errors` undecodable images."""
    readable = rows.status == STATUS_OK
    progress.done += len(rows.key)
    progress.readable += int(readable.sum())
    progress.correct += int((rows.prediction == rows.label)[readable].sum())
    progress.errors += [(key, reason) for key, reason in zip(rows.key, rows.error, strict=True) if reason]
    allowed = math.ceil(total_rows / 1000) if max_errors is None else max_errors
    if len(progress.errors) > allowed:
        listed = "".join(f"\n  {key!r}: {reason}" for key, reason in progress.errors[:10])
        raise ImagesError(
            f"expected at most {allowed} unreadable images, found {len(progress.errors)} in {progress.done}; repair "
            f"them, or accept them with --max-errors; finished shards are kept:{listed}"
        )


class _Publisher:
    """Appends row batches to shards in order, in one thread of its own; the last batch of a shard publishes it."""

    def __init__(self, store: Path, header: Header):
        self._store = store
        self._header = header
        self._writer: ShardWriter | None = None
        self._failed = False
        self._pending: deque[Future[None]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="publish")

    def append(self, first_row: int, rows: RowBatch) -> bool:
        """Queue a batch; True when it completes its shard. Raises what an earlier write raised."""
        shard = first_row // self._header.shard_rows
        last = first_row + len(rows.key) == self._header.layout.bounds(shard)[1]
        self._pending.append(self._thread.submit(self._write, shard, rows, last))
        while len(self._pending) > QUEUED_BATCHES or (self._pending and self._pending[0].done()):
            self._pending.popleft().result()
        return last

    def _write(self, shard: int, rows: RowBatch, last: bool) -> None:
        if self._failed:  # what was queued behind a failed write belongs to a torn shard
            return
        try:
            if self._writer is None:
                self._writer = ShardWriter(self._store, self._header, shard)
            self._writer.append(rows)
            if last:
                self._writer.publish()
                self._writer = None
        except BaseException:
            self._failed = True
            raise

    def __enter__(self) -> _Publisher:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown()  # writes what is queued: complete shards are published even when the job fails
        if self._writer is not None:
            self._writer.discard()
        if kind is None:
            for future in self._pending:
                future.result()
