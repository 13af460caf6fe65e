"""Stop requests: a batch system's warning becomes a flag that the job reads between two batches."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: run again
EXIT_INTERRUPTED = 130
_PR_SET_PDEATHSIG = 1  # of Linux's prctl(2)


class StopRequest:
    """Callable that tells whether a stop was asked for; `exit_code` says how the process should end then."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __call__(self) -> bool:
        """Whether a stop signal has arrived."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """130 after SIGINT, else 75."""
        return EXIT_INTERRUPTED if self.signal == signal.SIGINT else EXIT_PREEMPTED


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Within the block a stop signal sets the flag; a second SIGINT interrupts at once."""
    request = StopRequest()

    def note(number: int, _frame: FrameType | None) -> None:
        if request.signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        request.signal = signal.Signals(number)

    before = {number: signal.signal(number, note) for number in STOP_SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent(parent: int, _worker_id: int = 0) -> None:
    """To be called first in the decoding processes of the process `parent`, which alone decides when they stop.

    Batch systems signal all processes of a group, so stop signals are ignored here. torch's workers check whether the
    parent is alive, but not while they start: they would stay for ever, so on Linux the kernel is asked to end them.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
