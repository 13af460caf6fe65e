"""What a push or pull gives back, and what it calls meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from store.transfer.manifest import Manifest

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


class Progress:
    """Counts the bytes of some files of a manifest as they travel."""

    def __init__(self, manifest: Manifest, names: Iterable[str], on_progress: OnProgress) -> None:
        self._files, self._tell = manifest.files, on_progress
        self.done, self.total = 0, sum(manifest.files[name].nbytes for name in names)
        on_progress(0, self.total)

    def moved(self, name: str) -> None:
        """A file has arrived; the card and the manifest are not counted."""
        if name in self._files:
            self.done += self._files[name].nbytes
        self._tell(self.done, self.total)


def silent(*_: object) -> None:
    """The default of both."""
