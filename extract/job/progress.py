"""What is known while a store is filled, and how that ended."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from extract.errors import ImagesError
from store import RowBatch
from store.checking.predictions import Confusion
from store.spec import STATUS_OK, Json


@dataclass
class Progress:
    """What is known while the job runs; `seconds` counts from the start of filling."""

    total: int  # rows of this worker's share that were missing at start, and those taken over from others
    done: int = 0
    readable: int = 0
    # of the readable, those with a prediction and a class that the teacher has an output for
    confusion: Confusion = field(default_factory=lambda: Confusion(np.zeros(0, np.int64)))
    seconds: float = 0.0
    read_s: float = 0.0  # waiting for decoded images
    compute_s: float = 0.0  # in the teacher
    write_s: float = 0.0  # in the publishing thread, beside the rest
    errors: list[tuple[str, str]] = field(default_factory=list)  # key, reason

    @property
    def rate(self) -> float:
        """Images per second of this run."""
        return self.done / self.seconds if self.seconds else 0.0

    @property
    def top1(self) -> float:
        """The share of right predictions so far; NaN before the first, and for a teacher without any."""
        return self.confusion.top1

    def note(self) -> dict[str, Json]:
        """What other processes are told with every sign of life, for `tokenmix status`."""
        return {name: round(getattr(self, name), 1) for name in ("done", "seconds", "read_s", "compute_s", "write_s")}

    def count(self, rows: RowBatch, top1: npt.NDArray[np.int32]) -> None:
        """Add B rows; `top1` [B]: the output that the teacher gave the largest logit, -1 where there is none."""
        readable = rows.status == STATUS_OK
        self.done += len(rows.key)
        self.readable += int(readable.sum())
        self.confusion.add(rows.label, np.where(readable, top1, -1))
        self.errors += [(key, reason) for key, reason in zip(rows.key, rows.error, strict=True) if reason]

    def refuse_errors_beyond(self, allowed: int) -> None:
        """Raise ImagesError where more images than that could not be read."""
        if len(self.errors) > allowed:
            listed = "".join(f"\n  {key!r}: {reason}" for key, reason in self.errors[:10])
            raise ImagesError(
                f"expected at most {allowed} unreadable images, found {len(self.errors)} in {self.done}; repair "
                f"them, or accept them with --max-errors; finished shards are kept:{listed}"
            )


@dataclass(frozen=True)
class Report:
    """How a run ended. `complete`: all shards of this worker's are in place; `stopped`: not all of the store's."""

    progress: Progress
    shards_written: int
    complete: bool
    stopped: bool
