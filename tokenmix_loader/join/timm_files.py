"""Encoded images of timm's datasets, opened without a trace in the dataset."""

from __future__ import annotations

import copy
import io
import os
import tarfile
from typing import Any, BinaryIO

from timm.data.readers.reader_image_in_tar import ReaderImageInTar


def open_timm_file(reader: Any, index: int) -> BinaryIO:
    """The encoded image of a sample.

    A tar that the reader opened by itself would stay open, and workers that are forked later would share its position
    and read each other's images. OSError where it cannot be opened.
    """
    if not isinstance(reader, ReaderImageInTar):
        file: BinaryIO = copy.copy(reader)[index][0]
        return file
    member, parent, child = reader.samples[index]
    try:
        with tarfile.open(os.path.join(reader.root, parent) if parent else reader.root) as tar:
            if child is None:
                return _read(tar, member)
            with tarfile.open(fileobj=tar.extractfile(child)) as inner:
                return _read(inner, member)
    except tarfile.TarError as error:
        raise OSError(f"{reader.root}: expected a tar, found {error}") from error


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> BinaryIO:
    file = tar.extractfile(member)
    return io.BytesIO(file.read() if file else b"")
