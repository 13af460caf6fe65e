"""The processes that decode images ahead of the teacher."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any

from torch.utils.data import DataLoader

from extract.errors import ExtractError, ImagesError
from extract.job.decoding import Batch, Decoder
from extract.job.processes.in_hand import InHand, Waiting
from extract.job.processes.signals import end_with_parent, stoppable

# Workers of a forkserver (Python 3.14's default) never notice that a killed job is gone, and stay for ever.
START_METHOD = "fork" if sys.platform == "linux" else None
END_S = 1.0  # for decoding processes to end by themselves, and for the kernel to end the others


class DecodingProcesses:
    """Decodes batches ahead in worker processes, or in this one where `count` is 0."""

    def __init__(self, decoder: Decoder, count: int, *, pin_memory: bool):
        """`pin_memory`: for a GPU."""
        self._decoder, self._count, self._pin_memory = decoder, count, pin_memory
        self._in_hand = decoder.in_hand = InHand(decoder.images.keys, count)
        self._processes: Sequence[BaseProcess] = ()
        self._died: str | None = None

    def batches(self, row_numbers: Iterator[range]) -> Iterator[Batch]:
        """The batches of these rows, in order; no process is left behind, however this ends.

        Raises ImagesError where the file system fails, ExtractError where a process dies, and Stopped, see `stoppable`.
        """
        loader: DataLoader[Any] = DataLoader(
            self._decoder,
            batch_sampler=row_numbers,  # type: ignore[arg-type]  # ranges are lists enough
            num_workers=self._count,
            collate_fn=self._decoder.collate,
            pin_memory=self._pin_memory,
            worker_init_fn=partial(end_with_parent, os.getpid()),
            multiprocessing_context=START_METHOD if self._count else None,
        )
        decoded = iter(loader)
        self._processes = getattr(decoded, "_workers", ())
        try:
            while True:
                if (batch := self._next(decoded)) is None:
                    return
                if batch.fault:
                    raise ImagesError(batch.fault)
                yield batch
        finally:
            self._end(decoded)

    def _next(self, decoded: Iterator[Batch]) -> Batch | None:
        try:
            with stoppable(self._in_hand.__str__):
                return next(decoded, None)
        except (RuntimeError, OSError, EOFError) as error:
            # Batches lie with the process that made them: when it is gone, torch finds no socket to fetch them by.
            ended = connection.wait([process.sentinel for process in self._processes], END_S)
            for process in self._processes:
                if process.sentinel in ended:
                    process.join(END_S)  # its files close some moments before it has an exit status
            self.refuse_dead(error)
            raise

    def in_hand(self) -> Waiting | None:
        """The image that has been read and decoded for longest; may be asked from any thread."""
        return self._in_hand.longest()

    def refuse_dead(self, error: Exception) -> None:
        """Raise ExtractError if a process has ended otherwise than when told to; torch's own error says little."""
        if died := self._died or self._find_dead():
            raise ExtractError(died) from error

    def _find_dead(self) -> str | None:
        for place, process in enumerate(self._processes):
            key = self._in_hand.of(place)
            if process.exitcode is None or (process.exitcode == 0 and key is None):
                continue
            had = "no image" if key is None else repr(key)
            return (
                f"{self._decoder.images.root}: expected decoding processes that live as long as the job, found one "
                f"that ended with {process.exitcode} and had {had} in hand; check that file, and if memory may be "
                "short use fewer --workers"
            )
        return None

    def _end(self, decoded: Any) -> None:
        """End the processes: those that work do so when torch tells them, others, which may hang, are killed."""
        self._died = self._find_dead()
        killer = threading.Timer(END_S, self._kill)
        killer.daemon = True
        killer.start()
        with _without_sigchld_handler():
            shut_down = getattr(decoded, "_shutdown_workers", self._kill)
            shut_down()
            killer.cancel()
            self._kill()
            connection.wait([process.sentinel for process in self._processes], END_S)

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()


@contextmanager
def _without_sigchld_handler() -> Iterator[None]:
    """Without torch's handler, which raises RuntimeError wherever the main thread is when a process is killed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL) or signal.SIG_DFL
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)
