"""The job's progress for a person: a tqdm bar on a terminal, a plain line now and then in a log file."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from typing import Any, TextIO

from tqdm import tqdm

from extract.job.progress import Progress

LOG_INTERVAL_S = (10.0, 60.0)  # at the start, and of jobs of ten minutes or more
_BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"  # tqdm's own speed counts from when the bar was made


def say_above_bar(message: str) -> None:
    """One line on stderr, for people; a bar that is there goes on below it."""
    with suppress(OSError):  # as `say`
        tqdm.write(message, file=sys.stderr)


@contextmanager
def show_progress(stream: TextIO | None, *, figure: str = "top-1") -> Iterator[Callable[[Progress], None]]:
    """Yield the `on_progress` callback that suits the stream; None is a closed one.

    `figure`: what the share of right predictions is called. The bar appears with the first images that are done.
    """
    if stream is None or not stream.isatty():
        yield _LogLines(stream, figure) if stream else lambda _: None
        return
    with ExitStack() as stack:
        bars: list[Any] = []

        def redraw(progress: Progress) -> None:
            figures = _figures(progress, figure)
            if not bars:
                bar = tqdm(total=progress.total, initial=progress.done, postfix=figures, file=stream,
                           dynamic_ncols=True, bar_format=_BAR)  # fmt: skip
                bars.append(stack.enter_context(bar))
            bars[0].total = progress.total
            bars[0].set_postfix_str(figures, refresh=False)
            bars[0].update(progress.done - bars[0].n)

        yield redraw


@contextmanager
def show_count(what: str) -> Iterator[Callable[[int], object]]:
    """Yield what is called with each number of things that were done; their sum is shown on a terminal."""
    with tqdm(unit=f" {what}", disable=None, leave=False, delay=0.5) as bar:
        yield bar.update


@contextmanager
def show_bytes() -> Iterator[Callable[[int, int], object]]:
    """Yield what is called with how many of how many bytes have travelled; a bar on a terminal."""
    with tqdm(unit="B", unit_scale=True, disable=None, leave=False, delay=0.5, dynamic_ncols=True) as bar:

        def redraw(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield redraw


class _LogLines:
    def __init__(self, stream: TextIO, figure: str):
        self._stream, self._figure = stream, figure
        self._next = 0.0

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() < self._next and progress.done < progress.total:
            return
        shortest, longest = LOG_INTERVAL_S
        self._next = time.monotonic() + min(longest, max(shortest, progress.seconds / 10))
        with suppress(OSError):  # a log that is gone or full must not end the job
            print(
                f"{progress.done}/{progress.total} images, {_figures(progress, self._figure)}",
                file=self._stream,
                flush=True,
            )


def _figures(progress: Progress, figure: str) -> str:
    """Speed, time to go, top-1 where predictions are judged, and how many images could not be read."""
    eta = timedelta(seconds=round((progress.total - progress.done) / max(progress.rate, 1e-9)))
    parts = [f"{progress.rate:.1f} img/s", f"ETA {eta}"]
    parts += [] if math.isnan(progress.top1) else [f"{figure} {100 * progress.top1:.1f} %"]
    parts += [f"{len(progress.errors)} unreadable"] if progress.errors else []
    return ", ".join(parts)
