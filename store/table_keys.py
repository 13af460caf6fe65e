"""Keys of images that are rows of a table and not files of a folder."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence


def names_or_numbers(paths: Sequence[str | None]) -> list[str]:
    """The files' names, where every row has one of its own; otherwise nine-digit row numbers.

    Folders are left out: they are those of the machine that made the table.
    """
    names = [posixpath.basename((path or "").replace("\\", "/")) for path in paths]
    if "" in names or len(set(names)) < len(names):
        return [f"{row:09d}" for row in range(len(names))]
    return names
