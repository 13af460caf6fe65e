"""What a push or pull gives back, and what it calls meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

OnProgress = Callable[[int, int], object]  # how many of how many bytes have travelled
Say = Callable[[str], object]  # a line for a person


@dataclass(frozen=True)
class Transfer:
    """What was done: of `files` with `nbytes` in all, `moved` with `moved_nbytes` had to travel."""

    url: str
    store: Path
    content_digest: str
    files: int
    nbytes: int
    moved: int
    moved_nbytes: int


def silent(*_: object) -> None:
    """The default of both."""
