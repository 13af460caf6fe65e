"""The job: row numbers -> decoded images -> the teacher's maps -> rows; fill.py takes these to the disk.

Images are decoded in worker processes, the teacher runs here, and shards are written in a thread of its own.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import torch

from extract.errors import ImagesError
from extract.images.image_list import ImageList
from extract.images.same_files import require_same_files
from extract.images.stored_order import ALL_COLUMNS, Earlier, columns_of, in_stored_order
from extract.job.decoding import Batch, Decoder
from extract.job.fill import Rows, fill_store
from extract.job.processes.in_hand import Waiting
from extract.job.processes.pool import DecodingProcesses
from extract.job.processes.signals import stoppable
from extract.job.progress import Progress, Report
from extract.job.row_batch import outputs_of, row_batch
from extract.settings import JobOptions
from extract.teacher.protocol import Maps, Pending, Teacher
from store import Header
from store.folder.head import Head


def run_job(
    images: ImageList,
    store: str | Path,
    teacher: Teacher,
    options: JobOptions,
    teacher_class: Sequence[int] | None = None,
    *,
    on_progress: Callable[[Progress], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Fill this worker's share of the store, then help the others, until no shard is missing.

    Shards that are there are kept, so a second call resumes; rows are as in `in_stored_order`, `teacher_class` as in
    `make_header`. `on_progress` is called after every batch; `stop` is asked before every batch and drops the shard in
    flight.

    `say` is told of images that take long to read.

    Raises StoreMismatch (another configuration is stored, or other images), StoreError (cannot be written),
    TeacherError (NaN, or a logit beyond the dtype), ImagesError (an image cannot be read from the file system, or more
    than `max_errors` cannot be decoded), ExtractError (a decoding process died). Published shards survive all of these.
    """
    store = Path(store)
    with stoppable(lambda: f"comparing the images with {store}"):
        images, earlier = in_stored_order(images, store, extend=options.extend)
        header = make_header(images, teacher, options, teacher_class, earlier, columns_of(store))
        require_same_files(images, store, header)
    head = teacher.head()
    source = _TeacherRows(images, teacher, header, options)
    try:
        return fill_store(
            store,
            header,
            source,
            batch_size=options.batch_size,
            worker=options.worker,
            max_errors=options.max_errors,
            earlier_keys=images.keys[: earlier[-1][0]] if earlier else (),
            head=None if head is None else Head(*(part.numpy() for part in head)),
            on_progress=on_progress,
            stop=stop,
            say=say,
        )
    except RuntimeError as error:  # torch raises it wherever this process is when a decoding process dies
        if source.decoding is not None:
            source.decoding.refuse_dead(error)
        raise


def make_header(
    images: ImageList,
    teacher: Teacher,
    options: JobOptions,
    teacher_class: Sequence[int] | None = None,
    earlier: Earlier = (),
    columns: Sequence[str] = ALL_COLUMNS,
) -> Header:
    """All that decides the content of the store, `earlier` and `columns` as in `Header`.

    `teacher_class` [K]: the output of the teacher that shows each of the K classes, empty for maps that need none;
    None: they are the teacher's own, in order, and ImagesError where their numbers differ.
    """
    if teacher_class is None:
        teacher_class = _own_classes(images, teacher)
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
        columns=tuple(columns),
        dataset=images.header() | {"teacher_class": list(teacher_class)},
        versions={name: version(name) for name in ("tokenmix-maps", "torch", "torchvision", "timm", "h5py", "pillow")},
    )


def _own_classes(images: ImageList, teacher: Teacher) -> range:
    if teacher.num_classes not in (0, len(images.class_names)):  # 0: it knows no classes
        raise ImagesError(
            f"{images.root}: expected {teacher.num_classes} classes, as --teacher {teacher.spec.name} has, found "
            f"{len(images.class_names)} class folders; give a --checkpoint with --num-classes "
            f"{len(images.class_names)}, or a --class-map that says which output shows each class"
        )
    return range(teacher.num_classes)


class _TeacherRows:
    """The `RowSource` of the job."""

    def __init__(self, images: ImageList, teacher: Teacher, header: Header, options: JobOptions):
        self._images, self._teacher, self._header, self._options = images, teacher, header, options
        self.decoding: DecodingProcesses | None = None

    def __call__(self, row_numbers: Iterator[range], progress: Progress) -> Iterator[Rows]:
        # An error of the teacher's keeps all frames alive, and with them the processes, for which Python's end waits.
        with closing(self._decode(row_numbers, progress)) as decoded:
            for batch, maps in self._compute(decoded, progress):
                rows = row_batch(self._images, batch, maps, self._header)
                yield Rows(batch.rows[0], rows, rows.prediction)

    def in_hand(self) -> Waiting | None:
        """As `RowSource.in_hand`."""
        return None if self.decoding is None else self.decoding.in_hand()

    def _decode(self, row_numbers: Iterator[range], progress: Progress) -> Generator[Batch, None, None]:
        decoder = Decoder(self._images, self._teacher.preprocessing)
        count = min(self._options.decoding_processes, math.ceil(progress.total / self._options.batch_size))
        self.decoding = DecodingProcesses(decoder, count, pin_memory=self._teacher.device.type == "cuda")
        asked = time.monotonic()
        for batch in self.decoding.batches(row_numbers):
            progress.read_s += time.monotonic() - asked
            yield batch
            asked = time.monotonic()

    def _compute(self, batches: Iterator[Batch], progress: Progress) -> Iterator[tuple[Batch, Maps]]:
        """Batches with their maps; on a GPU one behind, so that it computes while we wait for the copy of the last."""
        behind = int(self._teacher.device.type == "cuda")
        begun: deque[tuple[Batch, Pending]] = deque()
        for batch in batches:
            started = time.monotonic()
            begun.append((batch, self._start(batch)))
            progress.compute_s += time.monotonic() - started
            if len(begun) > behind:
                yield _arrived(*begun.popleft(), progress)
        while begun:
            yield _arrived(*begun.popleft(), progress)

    def _start(self, batch: Batch) -> Pending:
        dtype = getattr(torch, self._header.maps_dtype)
        return self._teacher.start(batch.pixels, outputs_of(self._header, self._images.labels[batch.rows]), dtype)


def _arrived(batch: Batch, pending: Pending, progress: Progress) -> tuple[Batch, Maps]:
    started = time.monotonic()
    maps = pending.result()
    progress.compute_s += time.monotonic() - started
    return batch, maps
