"""Whether the files of a dataset are those that the maps were made from: another split may have the same names."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import BinaryIO

import numpy as np

from tokenmix_loader.batch import NO_MAP
from tokenmix_loader.join.rows import Rows
from tokenmix_loader.store_access import UNKNOWN, MapStore, StoreMismatch, difference_of, report_of, spread

# One open and three short reads each: some tenths of a second on a network file system. A split of which
# one file in ten is another passes once in 850 times.
SAMPLED_FILES = 64


def require_same_files(keys: Sequence[str], rows: Rows, open_file: Callable[[int], BinaryIO], store: MapStore) -> None:
    """Compare some files, evenly spread, with those of their rows [N]; StoreMismatch where they differ.

    `open_file` opens the encoded image of a key's index. One that cannot be opened is left to the training, which fails
    when it needs it; where none can be, they are looked for in a wrong place: StoreMismatch, too.
    """
    known = np.flatnonzero(rows != NO_MAP)
    known = known[store.fingerprints[rows[known]] != UNKNOWN]
    chosen = known[spread(len(known), SAMPLED_FILES)].tolist()
    other, opened = [], 0
    for index in chosen:
        with contextlib.suppress(OSError), open_file(index) as file:
            opened += 1
            if found := difference_of(file, int(store.fingerprints[rows[index]])):
                other.append(f"{keys[index]}: {found}")
    if chosen and not opened:
        raise StoreMismatch(
            f"{store}: expected the files of its images, found that none of {len(chosen)} can be opened, as "
            f"{keys[chosen[0]]!r}; give the folder that keys are relative to, the dataset's or `root`"
        )
    if other:
        raise StoreMismatch(
            f"{store}: {report_of(opened, other)}"
            "Repair them if they are damaged; another split or version of the dataset needs maps of its own. If these "
            "are the same pictures, only resized or saved anew, pass same_files=False (`tokenmix show --copies`)."
        )
