"""The last bytes of shards, of `head.h5` and of files of keys: a checksum of all bytes before them.

Digests of rows say which row was changed; the checksum covers every byte, also those that mean nothing. HDF5 itself
ignores it.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

from xxhash import xxh3_128, xxh3_128_digest

CHECKSUM_NBYTES = 16
_CHUNK_NBYTES = 1 << 22


def with_checksum(buffer: io.BytesIO) -> memoryview:
    """Append the checksum to a finished file and return all its bytes."""
    digest = xxh3_128_digest(buffer.getbuffer())
    buffer.seek(0, os.SEEK_END)
    buffer.write(digest)
    return buffer.getbuffer()


def has_checksum(path: Path) -> bool:
    """Whether the file ends with the checksum of all before; OSError where it cannot be read."""
    digest, left = xxh3_128(), path.stat().st_size - CHECKSUM_NBYTES
    with open(path, "rb", buffering=0) as file:
        while left > 0 and (chunk := file.read(min(left, _CHUNK_NBYTES))):
            digest.update(chunk)
            left -= len(chunk)
        return left == 0 and file.read() == digest.digest()
