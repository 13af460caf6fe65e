"""A store as a tree of one `.pt` per image, as TokenLabeling writes and reads them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from extract.published.torch_file import tensor_bytes
from store.errors import StoreError
from store.folder.files import StrPath
from store.reading.map_store import MapStore
from store.spec import STATUS_OK

_BATCH = 256
_MOST_CLASSES = 2049  # beyond, float16 does not hold every class number


def map_paths(keys: Sequence[str]) -> list[str]:
    """Where the public loaders look for the map of each key: its class folder, and its name up to the first dot.

    StoreError for two keys of one file, which would be joined wrongly.
    """
    found: dict[str, str] = {}
    for key in keys:
        path = "/".join(key.split("/")[-2:]).split(".")[0] + ".pt"
        if path in found:
            raise StoreError(
                f"{path}: expected one image per map, found {found[path]!r} and {key!r}, whose names are the same up "
                "to the first dot; rename one"
            )
        found[path] = key
    return list(found)


def export_tokenlabeling(path: StrPath, target: StrPath) -> Iterator[str]:
    """Write float16 [2, k, h, w], logits and class numbers, for every row with a map; yields each key when done.

    Started again, it goes on. Raises StoreError for a store of another kind, for more classes than float16 can number,
    for logits beyond float16, for a file that is there with another content, and as `map_paths`.
    """
    store = MapStore(path)
    classes = len(store.header.dataset["class_names"])  # type: ignore[arg-type]
    if store.kind != "topk" or classes > _MOST_CLASSES:
        raise StoreError(
            f"{path}: expected kind topk and at most {_MOST_CLASSES} classes, found kind {store.kind} and {classes} "
            "classes; such maps have no place in this format"
        )
    files = [Path(target) / file for file in map_paths(store.keys)]
    for folder in {file.parent for file in files}:
        folder.mkdir(parents=True, exist_ok=True)
    rows = np.flatnonzero(store.statuses == STATUS_OK)
    for at in range(0, len(rows), _BATCH):
        chosen = rows[at : at + _BATCH]
        for row, logits, numbers in zip(chosen.tolist(), *store.read_topk(chosen), strict=True):
            _put(files[row], tensor_bytes(np.stack([_half(files[row], logits), numbers.astype(np.float16)])))
            yield store.keys[row]


def _half(file: Path, logits: npt.NDArray[Any]) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore"):
        half = logits.astype(np.float16)
    if not np.isfinite(half).all():
        raise StoreError(f"{file}: expected logits that float16 can hold, found {logits.max():g}; there is no remedy")
    return half


def _put(file: Path, content: bytes) -> None:
    """Complete or not at all; what is there is never overwritten."""
    if file.exists():
        if file.read_bytes() != content:
            raise StoreError(f"{file}: expected this map or no file, found another; give an empty folder")
        return
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, file)
