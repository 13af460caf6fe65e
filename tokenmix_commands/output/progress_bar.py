"""The job's progress for a person: a tqdm bar on a terminal, a plain line every few seconds in a log file."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TextIO

from tqdm import tqdm

from extract.job.progress import Progress

LOG_INTERVAL_S = 10.0


def say_above_bar(message: str) -> None:
    """One line on stderr, for people; a bar that is there goes on below it."""
    with suppress(OSError):  # as `say`
        tqdm.write(message, file=sys.stderr)


@contextmanager
def show_progress(stream: TextIO | None, *, figure: str = "top-1") -> Iterator[Callable[[Progress], None]]:
    """Yield the `on_progress` callback that suits the stream; None is a closed one.

    `figure`: what the share of right predictions is called.
    """
    if stream is None or not stream.isatty():
        yield _LogLines(stream, figure) if stream else lambda _: None
        return
    with tqdm(total=0, unit="img", file=stream, dynamic_ncols=True, smoothing=0.1) as bar:

        def redraw(progress: Progress) -> None:
            bar.total = progress.total
            bar.set_postfix_str(_accuracy(progress, figure), refresh=False)
            bar.update(progress.done - bar.n)

        yield redraw


@contextmanager
def show_count(what: str) -> Iterator[Callable[[int], object]]:
    """Yield what is called with each number of things that were done; their sum is shown on a terminal."""
    with tqdm(unit=f" {what}", disable=None, leave=False) as bar:
        yield bar.update


class _LogLines:
    def __init__(self, stream: TextIO, figure: str):
        self._stream, self._figure = stream, figure
        self._next = 0.0

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() < self._next and progress.done < progress.total:
            return
        self._next = time.monotonic() + LOG_INTERVAL_S
        eta = timedelta(seconds=round((progress.total - progress.done) / max(progress.rate, 1e-9)))
        with suppress(OSError):  # a log that is gone or full must not end the job
            print(
                f"{progress.done}/{progress.total} images, {progress.rate:.1f} img/s, ETA {eta}, "
                f"{_accuracy(progress, self._figure)}",
                file=self._stream,
                flush=True,
            )


def _accuracy(progress: Progress, figure: str) -> str:
    share = "-" if math.isnan(progress.top1) else f"{100 * progress.top1:.1f} %"
    return f"{figure} {share}" + (f", {len(progress.errors)} unreadable" if progress.errors else "")
