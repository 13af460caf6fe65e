"""Stop requests: a batch system's warning, or Ctrl-C, ends the job in time, whatever the job waits for.

Stop signals reach a thread of their own, which sleeps until one comes. A handler of Python would not be enough: it runs
in the main thread, and never does while a file system that hangs, or a decoder in C, holds that thread. So the main
thread blocks these signals, and whichever other thread gets one, Python writes its number into a pipe at once.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: run again
EXIT_INTERRUPTED = 130
GRACE_S = 20.0  # for an orderly end; Slurm and Kubernetes leave 30 s between SIGTERM and SIGKILL
REPEAT_S = 0.5  # the same signal again so soon was sent to the process and to its group, and is the same request
WAKE_AGAIN_S = 0.2  # until the main thread has heard: what comes just before a system call does not interrupt it
LAST_WORDS_S = 1.0  # for a message to a terminal or log that may hang, too
_END = b"\0"  # no signal's number
_WAKE = signal.SIGURG  # interrupts the main thread; ignored by default, so it can do no other harm
_PR_SET_PDEATHSIG = 1  # of Linux's prctl(2)


class Stopped(BaseException):
    """A stop was asked for; the text says what the job was waiting for.

    Like KeyboardInterrupt no Exception: it may come out of an image library, and is no fault of the image.
    """


class StopRequest:
    """Callable: whether a stop was asked for; `exit_code` says how the process should end then."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """`say` gets the last words of a process that had to be ended."""
        self.signal: signal.Signals | None = None
        self.heard = False  # whether the main thread was interrupted
        self._say = say
        self._asked_s = 0.0
        self._grace = threading.Timer(GRACE_S, self._end, (f"it did not stop within {GRACE_S:.0f} s",))
        self._grace.daemon = True
        self._listener = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._numbers, self._wake_fd = os.pipe()
        os.set_blocking(self._wake_fd, False)

    def __call__(self) -> bool:
        """Whether a stop signal has arrived."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """130 after SIGINT, else 75."""
        return EXIT_INTERRUPTED if self.signal == signal.SIGINT else EXIT_PREEMPTED

    def note(self, number: int) -> None:
        """Take a signal: the first asks for a stop within GRACE_S, a second one ends the process at once."""
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._asked_s = signal.Signals(number), now
            self._grace.start()
            signal.pthread_kill(_main_id(), _WAKE)
        elif number != self.signal or now - self._asked_s > REPEAT_S:
            self._end(f"{signal.Signals(number).name} came, too")

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within the block signals are noted; after it, the time for an orderly end no longer runs."""
        before = signal.set_wakeup_fd(self._wake_fd, warn_on_full_buffer=False)
        self._listener.start()
        try:
            yield
        finally:
            self._grace.cancel()
            signal.set_wakeup_fd(before)
            os.write(self._wake_fd, _END)
            self._listener.join()
            os.close(self._wake_fd)
            os.close(self._numbers)

    def _listen(self) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        while True:
            if self() and not self.heard and not select.select([self._numbers], [], [], WAKE_AGAIN_S)[0]:
                signal.pthread_kill(_main_id(), _WAKE)
                continue
            number = os.read(self._numbers, 1)
            if number == _END:
                return
            if number[0] in STOP_SIGNALS:  # Python also writes those that others handle
                self.note(number[0])

    def _end(self, why: str) -> None:
        """End this process and its decoding processes here and now.

        That is always safe: a shard appears by one rename, so that no unfinished one is ever seen.
        """
        assert self.signal is not None
        doing = f" while {_waits[-1]()}" if _waits else ""
        words = f"ended after {self.signal.name}{doing}: {why}; run again to go on"
        speaker = threading.Thread(target=self._say, args=(words,), daemon=True)
        speaker.start()
        speaker.join(LAST_WORDS_S)
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(self.exit_code)


# Signals belong to the process, and so does this: the request that listens, and what the main thread waits for.
_request: StopRequest | None = None
_waits: list[Callable[[], str]] = []


@contextmanager
def stop_on_signals(say: Callable[[str], None] = lambda _: None) -> Iterator[StopRequest]:
    """Within the block a stop signal sets the flag, and interrupts where the main thread is `stoppable`.

    If the block does not end within GRACE_S then, or if another signal comes, the process is ended, with a message to
    `say`. Only for the main thread.
    """
    global _request
    _request = request = StopRequest(say)
    _waits.clear()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    before = {number: signal.signal(number, _leave_to_listener) for number in STOP_SIGNALS}
    before[_WAKE] = signal.signal(_WAKE, _interrupt)
    try:
        with request.listening():
            yield request
    finally:
        _request = None
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def stoppable(waits: Callable[[], str]) -> Iterator[None]:
    """Within the block, a stop signal raises Stopped in the main thread; for work that may be dropped at any point.

    `waits` says what is being waited for, as "reading 'a/1.jpg'". In other threads, and without `stop_on_signals`,
    nothing happens.
    """
    if threading.get_ident() != _main_id():
        yield
        return
    _waits.append(waits)
    try:
        _interrupt()
        yield
    finally:
        _waits.pop()


def _leave_to_listener(_number: int, _frame: FrameType | None) -> None:
    """Does nothing: Python writes the number of a signal into the pipe only where it has a handler."""


def _interrupt(_number: int = 0, _frame: FrameType | None = None) -> None:
    if _waits and _request is not None and _request():
        _request.heard = True
        raise Stopped(_waits[-1]())


def _main_id() -> int:
    ident = threading.main_thread().ident
    assert ident is not None
    return ident


def leave(status: str | int | None) -> NoReturn:
    """As `sys.exit`, but without waiting for decoding processes that even SIGKILL cannot end while they read."""
    if multiprocessing.active_children() and not isinstance(status, str):
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status or 0)
    sys.exit(status)


def end_with_parent(parent: int, _worker_id: int = 0) -> None:
    """To be called first in the decoding processes of the process `parent`, which alone decides when they stop.

    Batch systems signal all processes of a group, so stop signals are ignored here. torch's workers check whether the
    parent is alive, but neither while they start nor while they read: they would stay for ever, so on Linux the kernel
    is asked to end them.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
