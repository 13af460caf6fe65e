"""One HDF5 file that shows all shards as one: virtual datasets, for tools that know nothing of shards."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from store.folder.create import read_header
from store.folder.files import StrPath, complete_files, write_with_checksum
from store.format.header import Header
from store.format.shard import open_shard
from store.spec import FORMAT_NAME, INDEX_FILE, LIBVER, TEXTS


def write_index(path: StrPath) -> Path:
    """Write `index.h5` beside the shards, again if it is there: every dataset over all rows, no byte copied.

    Where a shard is lost later, HDF5 gives NaN and whole numbers of ones only (label -1, status 255), never zeros.
    Shards are named relative to it, so the folder may be moved. Raises StoreError where there is no store,
    ShardError for a missing, torn or foreign shard.
    """
    folder = Path(path)
    header = read_header(folder)
    files = complete_files(folder, header)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=LIBVER) as index:
        dtypes = {field.name: field.dtype for field in header.datasets} | _text_dtypes(files, header)
        shapes = {field.name: field.shape for field in header.datasets}
        for name, dtype in dtypes.items():
            layout = _layout(files, header, name, dtype, shapes.get(name, ()))
            index.create_virtual_dataset(name, layout, fillvalue=_fill(dtype))
        index.attrs["format"] = np.bytes_(f"{FORMAT_NAME} index")
        index.attrs["content_digest"] = np.bytes_(header.content_digest)
    write_with_checksum(folder / INDEX_FILE, buffer)
    return folder / INDEX_FILE


def _fill(dtype: np.dtype[Any]) -> Any:
    """What no row holds; a missing text stays empty, which no key is."""
    return None if dtype.kind == "S" else np.array(np.nan if dtype.kind == "f" else -1).astype(dtype)


def _layout(
    files: list[Path], header: Header, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> h5py.VirtualLayout:
    layout = h5py.VirtualLayout((header.rows, *shape), dtype)
    for shard, file in enumerate(files):
        start, stop = header.sharding.bounds(shard)
        layout[start:stop] = h5py.VirtualSource(file.name, name, (stop - start, *shape), dtype)
    return layout


def _text_dtypes(files: list[Path], header: Header) -> dict[str, np.dtype[Any]]:
    """Texts are as long as the longest of any shard; every shard is checked on the way."""
    longest = dict.fromkeys(TEXTS, 1)
    for shard, file in enumerate(files):
        with open_shard(file, header, shard) as opened:
            for name in TEXTS:
                longest[name] = max(longest[name], opened[name].dtype.itemsize)
    return {name: h5py.string_dtype("utf-8", nbytes) for name, nbytes in longest.items()}
