"""Images that take too long are reported, each once, while the job goes on waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from extract.job.processes.in_hand import Waiting

SLOW_S = 60.0  # no image takes so long to read and decode; a hung file system, a FIFO or a stuck decoder does
LOOK_S = 1.0  # between two looks


@contextmanager
def reporting_slow(in_hand: Callable[[], Waiting | None], report: Callable[[Waiting], None]) -> Iterator[None]:
    """Within the block `report` is called, in a thread of its own, when an image is in hand for longer than SLOW_S."""
    end = threading.Event()

    def look() -> None:
        reported = None
        while not end.wait(LOOK_S):
            waiting = in_hand()
            if waiting is not None and waiting.seconds > SLOW_S and waiting.key != reported:
                reported = waiting.key
                report(waiting)

    thread = threading.Thread(target=look, name="patience", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join(LOOK_S)  # `report` may hang, as a terminal can


def spell_slow(waiting: Waiting) -> str:
    """The line that says so."""
    return (
        f"{waiting.key!r}: expected to be read and decoded within seconds, has taken {waiting.seconds:.0f} s so far; "
        "waiting: check the file and its file system"
    )
