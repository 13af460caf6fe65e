"""Progress as it is seen: a bar that fits 80 columns of a real terminal, and lines in a log file."""

import fcntl
import io
import os
import re
import select
import struct
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import numpy as np
import pytest

from extract.job.progress import Progress
from store.checking.predictions import Confusion
from tokenmix_commands.output.progress_bar import show_progress


def at(done: int, total: int, seconds: float, right: int | None = None, errors: int = 0) -> Progress:
    """A job's progress; `right`: predictions that are right, of all; None: none are judged."""
    confusion = Confusion(np.arange(2))
    if right is not None:
        confusion.add(np.zeros(done, np.int32), (np.arange(done) >= right).astype(np.int32))
    return Progress(total, done, done - errors, confusion, seconds, errors=[("a.jpg", "torn")] * errors)


@contextmanager
def terminal(columns: int) -> Iterator[tuple[TextIO, Callable[[], str]]]:
    """A stream on a terminal of that width, and what was written to it."""
    ours, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(its, "w") as stream:
        yield stream, lambda: everything(ours)
    os.close(ours)


def everything(terminal: int) -> str:
    read = b""
    while select.select([terminal], [], [], 0)[0]:
        read += os.read(terminal, 4096)
    return read.decode()


def drawn(steps: Sequence[Progress], columns: int = 80, figure: str = "top-1") -> list[str]:
    """The bar's successive pictures."""
    with terminal(columns) as (stream, written):
        with show_progress(stream, figure=figure) as on_progress:
            for step in steps:
                on_progress(step)
        return [part for part in re.split(r"[\r\n]+|\x1b\[A", written()) if part.strip()]


def test_a_bar_with_the_figures_of_the_job() -> None:
    pictures = drawn([at(32, 1000, 2.0, right=8), at(1000, 1000, 50.0, right=750, errors=1)])
    assert re.fullmatch(r"  3%\|█*▏?\S? *\| 32/1000, 16\.0 img/s, ETA 0:01:00, top-1 25\.0 %", pictures[0])
    assert re.fullmatch(r"100%\|█+\| 1000/1000, 20\.0 img/s, ETA 0:00:00, top-1 75\.0 %, 1 unreadable", pictures[-1])
    assert all(len(picture) <= 80 for picture in pictures)


@pytest.mark.parametrize("figure", ["top-1", "leads"])
@pytest.mark.parametrize(("seconds", "speed", "eta"), [(281.25, "1959.1", "0:06:13"), (8000, "68.9", "2:56:41")])
def test_the_largest_job_fits_80_columns(seconds: float, speed: str, eta: str, figure: str) -> None:
    """ImageNet-1k with some unreadable images: the bar is what gives way."""
    pictures = drawn([at(551_000, 1_281_167, seconds, right=400_000, errors=123)], figure=figure)
    assert all(len(picture) <= 80 for picture in pictures)
    assert f"551000/1281167, {speed} img/s, ETA {eta}, {figure} 72.6 %, 123 unreadable" in pictures[-1]


def test_no_bar_before_there_is_anything_to_show() -> None:
    with terminal(80) as (stream, written):
        with show_progress(stream):
            stream.write("stopped\n")
        assert written() == "stopped\r\n"


def test_maps_that_are_not_judged_have_no_top_1() -> None:
    assert "top-1" not in "".join(drawn([at(5, 10, 1.0)]))


def test_a_log_has_lines_at_intervals_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every ten seconds at first, every minute of a long job, however quick its batches."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: 1000 + clock[0])
    log = io.StringIO()
    with show_progress(log) as on_progress:
        for second in range(1, 3601):
            clock[0] = second
            on_progress(at(second, 3600, float(second)))
    assert "\r" not in log.getvalue()
    lines = log.getvalue().splitlines()
    assert lines[0] == "1/3600 images, 1.0 img/s, ETA 0:59:59"
    assert lines[-1] == "3600/3600 images, 1.0 img/s, ETA 0:00:00"
    when = [int(line.partition("/")[0]) for line in lines]
    apart = np.diff(when)
    assert apart[0] == 10
    assert apart[:-1].max() == 60
    assert len(lines) < 100


def test_a_log_that_is_full_ends_no_job() -> None:
    with Path("/dev/full").open("w") as full:
        with show_progress(full) as on_progress:
            on_progress(at(1, 2, 1.0))
        with pytest.raises(OSError, match="No space left"):
            full.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())  # so that closing has nothing to say
