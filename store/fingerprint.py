"""A fingerprint of an encoded image: cheap enough to compare every file of a dataset on a network file system.

Names and sizes in px of two splits or versions of a dataset may be the same; their files are not. Of a file that is
read anyway it costs a microsecond. Otherwise one open and three short reads, about as much as asking for its
size: where files are far away, each exchange costs, and not the few bytes.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64

# One page. The head of a file holds its dimensions and EXIF; but images of one camera or program share much of a head,
# so the compressed pixels, that no two images share, must be among what is read: those in the middle and at the end.
# Plain pixels (BMP, TIFF) of things on a white ground often differ in the middle only.
PART_NBYTES = 4096
_EXAMPLES = 3


def fingerprint_of(file: BinaryIO) -> int:
    """xxh3_64 of an encoded image's size in bytes and some of its parts, never 0; docs/format.md. OSError as `read`."""
    size = file.seek(0, os.SEEK_END)
    digest = xxh3_64(size.to_bytes(8, "little"))
    if size <= 3 * PART_NBYTES:
        parts = [(0, size)]
    else:
        parts = [(start, PART_NBYTES) for start in (0, (size - PART_NBYTES) // 2, size - PART_NBYTES)]
    for start, nbytes in parts:
        file.seek(start)
        digest.update(file.read(nbytes))
    return digest.intdigest() or 1  # 0 says that it is not known


def fingerprint_of_bytes(data: bytes) -> int:
    """`fingerprint_of` a file that was read."""
    return fingerprint_of(io.BytesIO(data))


def spread(n: int, most: int) -> npt.NDArray[np.int64]:
    """Up to `most` of the numbers below `n`, evenly spread from the first to the last, ascending; always the same."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64)) if n else np.empty(0, np.int64)


def difference_of(file: BinaryIO, fingerprint: int) -> str:
    """What was expected and found of an encoded image with another fingerprint; "" where it has this one."""
    found = fingerprint_of(file)
    if found == fingerprint:
        return ""
    nbytes = file.seek(0, os.SEEK_END)
    return (
        f"expected the file that its map was made from, fingerprint {fingerprint:016x}, found {found:016x}, "
        f"{nbytes} bytes"
    )


def report_of(compared: int, differing: Sequence[str]) -> str:
    """Of so many files compared, which are other ones: a line for each of the first few, to be followed by a remedy.

    `differing`: key and difference of each.
    """
    examples = "".join(f"  {line}\n" for line in differing[:_EXAMPLES])
    return f"of {compared} files compared {len(differing)} are not those that its maps were made from:\n{examples}"
