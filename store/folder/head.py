"""The classifier's weights of kind `features`: written once beside the shards, as `head.h5`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from store.errors import ShardError, StoreError
from store.folder.files import StrPath, write_with_checksum
from store.format.checksum import has_checksum
from store.format.header import Header
from store.format.shard import open_hdf5
from store.spec import HEAD_FILE, LIBVER

_REMEDY = "remove this file and run `tokenmix extract` again"
Float32 = npt.NDArray[np.float32]


class Head(NamedTuple):
    """logits = features @ weight.T + bias; weight float32 [O, C], bias float32 [O], for the teacher's O outputs."""

    weight: Float32
    bias: Float32


def write_head(path: StrPath, header: Header, head: Head) -> None:
    """Put `head.h5` in place, unless it is there; the same weights give the same bytes. StoreError for other shapes."""
    target = Path(path) / HEAD_FILE
    if target.exists():
        return
    if not _fits(head, header):
        raise StoreError(
            f"{target}: expected {_shapes(header)}, found {list(head.weight.shape)} and {list(head.bias.shape)}; give "
            "the weights of all outputs that the header counts"
        )
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=LIBVER) as file:
        for name, array in head._asdict().items():
            file.create_dataset(name, data=np.asarray(array, dtype="<f4"), track_times=False)
        file.attrs["content_digest"] = np.bytes_(header.digest_of(0))
    write_with_checksum(target, buffer)


def read_head(path: StrPath, header: Header) -> Head:
    """The weights; ShardError where they are missing, or not of this store."""
    file_path = Path(path) / HEAD_FILE
    with open_hdf5(file_path) as file:
        digest = file.attrs.get("content_digest")
        arrays = [np.asarray(file[name][()]) for name in Head._fields if name in file]
    if not has_checksum(file_path):
        raise ShardError(f"{file_path}: checksum: the file was changed after it was written; {_REMEDY}")
    expected = header.digest_of(0).encode()
    if digest != expected or len(arrays) < 2 or not _fits(head := Head(*arrays), header):
        raise ShardError(f"{file_path}: expected {_shapes(header)} of this store, found another head; {_REMEDY}")
    return head


def _fits(head: Head, header: Header) -> bool:
    return (head.weight.shape, head.bias.shape) == ((header.outputs, header.depth), (header.outputs,))


def _shapes(header: Header) -> str:
    return f"weight [{header.outputs}, {header.depth}] and bias [{header.outputs}]"
