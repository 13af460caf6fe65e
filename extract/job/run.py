"""The job: decode in worker processes, run the teacher here, write and publish shards in a thread of its own.

A shard is the unit of work, retry and resume. Batches never span two shards, so what a shard contains does not
depend on which shards were there before, and a job killed and resumed gives the store of an undisturbed one.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader

from extract.errors import ExtractError, ImagesError
from extract.images.listing import ImageList
from extract.images.stored_order import Earlier, in_stored_order
from extract.job.publisher import Publisher
from extract.job.row_batch import row_batch
from extract.job.shard_queue import ShardQueue
from extract.job.signals import follow_parent
from extract.settings import JobOptions
from extract.teacher.kinds import Maps
from extract.teacher.preprocess import Batch, Decoder
from extract.teacher.timm_teacher import Pending, Teacher
from store import Header, RowBatch, create_store
from store.folder.files import discard_leftovers
from store.folder.head import Head, write_head
from store.format.header import Json
from store.spec import STATUS_OK

# Workers of a forkserver (Python 3.14's default) never notice that a killed job is gone, and stay for ever.
START_METHOD = "fork" if sys.platform == "linux" else None


@dataclass
class Progress:
    """What is known while the job runs; `seconds` counts from the first batch asked for."""

    total: int  # rows of this worker's share that were missing at start, and those taken over from others
    done: int = 0
    correct: int = 0
    readable: int = 0
    judged: int = 0  # of these, with a prediction
    seconds: float = 0.0
    read_s: float = 0.0  # waiting for decoded images
    compute_s: float = 0.0  # in the teacher
    write_s: float = 0.0  # in the publishing thread, beside the rest
    errors: list[tuple[str, str]] = field(default_factory=list)  # key, reason

    @property
    def rate(self) -> float:
        """Images per second of this run."""
        return self.done / self.seconds if self.seconds else 0.0

    def note(self) -> dict[str, Json]:
        """What other processes are told with every sign of life, for `tokenmix status`."""
        return {name: round(getattr(self, name), 1) for name in ("done", "seconds", "read_s", "compute_s", "write_s")}

    @property
    def top1(self) -> float:
        """The share of right predictions so far; NaN before the first, and for a teacher without any."""
        return self.correct / self.judged if self.judged else math.nan

    def count(self, rows: RowBatch, top1: npt.NDArray[np.int32], max_errors: int | None, total_rows: int) -> None:
        """Add B rows and the teacher's top-1 of each, -1 where there is none.

        Raises ImagesError beyond `max_errors` unreadable rows; None: 0.1 % of `total_rows`, rounded up.
        """
        readable = rows.status == STATUS_OK
        self.done += len(rows.key)
        self.readable += int(readable.sum())
        self.judged += int((top1[readable] >= 0).sum())
        self.correct += int((top1 == rows.label)[readable].sum())
        self.errors += [(key, reason) for key, reason in zip(rows.key, rows.error, strict=True) if reason]
        allowed = math.ceil(total_rows / 1000) if max_errors is None else max_errors
        if len(self.errors) > allowed:
            listed = "".join(f"\n  {key!r}: {reason}" for key, reason in self.errors[:10])
            raise ImagesError(
                f"expected at most {allowed} unreadable images, found {len(self.errors)} in {self.done}; repair "
                f"them, or accept them with --max-errors; finished shards are kept:{listed}"
            )


@dataclass(frozen=True)
class Report:
    """How a run ended. `complete`: every shard of this worker's share is in place; `stopped`: not all of the store."""

    progress: Progress
    shards_written: int
    complete: bool
    stopped: bool


def make_header(images: ImageList, teacher: Teacher, options: JobOptions, earlier: Earlier = ()) -> Header:
    """All that decides the content of the store, `earlier` as in `Header`.

    Raises ImagesError when the classes do not match.
    """
    if teacher.num_classes not in (0, len(images.class_names)):  # 0: it knows no classes
        raise ImagesError(
            f"{images.root}: expected {teacher.num_classes} classes, as --teacher {teacher.spec.name} has, found "
            f"{len(images.class_names)} class folders; give a --checkpoint with --num-classes "
            f"{len(images.class_names)}, or a --class-map that names all {teacher.num_classes} classes in order"
        )
    return Header(
        kind=teacher.spec.kind,
        teacher=teacher.header(),
        preprocessing=teacher.preprocessing.header(),
        grid=teacher.grid,
        dtype=options.dtype,
        rows=len(images),
        shard_rows=options.shard_rows,
        depth=teacher.depth,
        earlier=earlier,
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
    """Fill this worker's share of the store, then help the others, until no shard is missing.

    Shards that are there are kept, so a second call resumes; rows are as in `in_stored_order`. `on_progress` is
    called after every batch; `stop` is asked before every batch and drops the shard in flight.

    Raises StoreMismatch (another configuration is stored), StoreError (cannot be written), TeacherError (NaN, or
    a logit beyond the dtype), ImagesError (an image cannot be read from the file system, or more than
    `max_errors` cannot be decoded). Published shards survive every one of these.
    """
    store = Path(store)
    images, earlier = in_stored_order(images, store, extend=options.extend)
    header = make_header(images, teacher, options, earlier)
    create_store(store, header, images.keys[: earlier[-1][0]] if earlier else ())
    if header.kind == "features":
        write_head(store, header, Head(*(part.numpy() for part in teacher.head())))
    discard_leftovers(store)
    queue = ShardQueue(store, header, options.worker)
    progress = Progress(total=queue.total())
    written = 0
    started = time.monotonic()
    with Publisher(header, queue, progress.note) as publisher:
        while (first := queue.wait(stop)) is not None:
            batches = _batches(header, queue, first, progress, options.batch_size)
            decoded = _decoded(images, teacher, batches, progress, options)
            for batch, maps in _computed(teacher, images, decoded, progress, header.maps_dtype):
                if stop():
                    break
                rows = row_batch(images, batch, maps, header)
                progress.count(rows, rows.prediction, options.max_errors, header.rows)
                written += publisher.append(batch.rows[0], rows)
                progress.seconds, progress.write_s = time.monotonic() - started, publisher.write_s
                on_progress(progress)
            publisher.flush()
    unfinished = queue.unfinished()
    return Report(progress, written, not options.worker.share(unfinished), stopped=bool(unfinished))


def _batches(header: Header, queue: ShardQueue, first: int, progress: Progress, batch_size: int) -> Iterator[list[int]]:
    """Row numbers batch by batch, the last of a shard perhaps smaller; a shard is claimed when the loader asks."""
    shard: int | None = first
    while shard is not None:
        progress.total = queue.total()
        start, stop = header.layout.bounds(shard)
        for at in range(start, stop, batch_size):
            yield list(range(at, min(at + batch_size, stop)))
        shard = queue.take()


def _decoded(
    images: ImageList, teacher: Teacher, batches: Iterator[list[int]], progress: Progress, options: JobOptions
) -> Iterator[Batch]:
    decoder = Decoder(images, teacher.preprocessing)
    processes = min(options.decoding_processes, math.ceil(progress.total / options.batch_size))
    loader: DataLoader[Any] = DataLoader(
        decoder,
        batch_sampler=batches,
        num_workers=processes,
        collate_fn=decoder.collate,
        pin_memory=teacher.device.type == "cuda",
        worker_init_fn=partial(follow_parent, os.getpid()),
        multiprocessing_context=START_METHOD if processes else None,
    )
    try:
        asked = time.monotonic()
        for batch in loader:
            progress.read_s += time.monotonic() - asked
            if batch.fault:
                raise ImagesError(
                    f"{batch.fault}; the file system failed, not the image: check the mount and run again"
                )
            yield batch
            asked = time.monotonic()
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise ExtractError(
            f"{images.root}: a decoding process died: {error}; memory may be short: use fewer --workers"
        ) from error


def _computed(
    teacher: Teacher, images: ImageList, batches: Iterator[Batch], progress: Progress, maps_dtype: str
) -> Iterator[tuple[Batch, Maps]]:
    """Batches with their maps; on a GPU one behind, so that it computes while we wait for the copy of the last."""
    dtype = getattr(torch, maps_dtype)
    behind = int(teacher.device.type == "cuda")
    begun: deque[tuple[Batch, Pending]] = deque()
    for batch in batches:
        started = time.monotonic()
        labels = torch.from_numpy(images.labels[batch.rows].astype(np.int64))
        begun.append((batch, teacher.start(batch.pixels, labels, dtype)))
        progress.compute_s += time.monotonic() - started
        if len(begun) > behind:
            yield _arrived(*begun.popleft(), progress)
    while begun:
        yield _arrived(*begun.popleft(), progress)


def _arrived(batch: Batch, pending: Pending, progress: Progress) -> tuple[Batch, Maps]:
    started = time.monotonic()
    maps = pending.result()
    progress.compute_s += time.monotonic() - started
    return batch, maps
