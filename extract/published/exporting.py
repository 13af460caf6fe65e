"""A store as a tree of one `.pt` per image, as TokenLabeling writes and reads them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from extract.published.torch_file import tensor_bytes
from store.errors import StoreError
from store.folder.files import StrPath
from store.reading.map_store import MapStore
from store.spec import HEADER_FILE, STATUS_OK

MAX_FLOAT16_OUTPUTS = 2049  # float16 holds every whole number up to 2048, but not all beyond
_BATCH = 256


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


def export_tree(path: StrPath, target: StrPath, *, on_progress: Callable[[int], None] = lambda _: None) -> int:
    """Write float16 [2, k, h, w], logits and the teacher's outputs, for every row with a map; returns their number.

    Started again, it goes on. `on_progress` is called with the number of maps so far. Raises StoreError for a store of
    another kind, a target that is a store, a teacher of more outputs than float16 can number, logits beyond float16, a
    file that is there with another content, and as `map_paths`.
    """
    if (Path(target) / HEADER_FILE).exists():
        raise StoreError(f"{target}: expected a folder for .pt files, found a store; give another path")
    store = MapStore(path)
    outputs = store.header.outputs
    if store.kind != "topk" or outputs > MAX_FLOAT16_OUTPUTS:
        raise StoreError(
            f"{path}: expected kind topk and at most {MAX_FLOAT16_OUTPUTS} classes of the teacher, found kind "
            f"{store.kind} and {outputs} classes; such maps have no place in this format"
        )
    files = [Path(target) / file for file in map_paths(store.keys)]
    for folder in {file.parent for file in files}:
        folder.mkdir(parents=True, exist_ok=True)
    rows = np.flatnonzero(store.statuses == STATUS_OK)
    for at in range(0, len(rows), _BATCH):
        chosen = rows[at : at + _BATCH]
        for row, logits, numbers in zip(chosen.tolist(), *store.read_topk(chosen), strict=True):
            _put(files[row], tensor_bytes(np.stack([_half(files[row], logits), numbers.astype(np.float16)])))
        on_progress(min(at + _BATCH, len(rows)))
    return len(rows)


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
