"""Writing a generated image folder: settings first, files whole or not at all, in several processes."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image


def claim(root: Path, name: str, settings: dict[str, Any]) -> None:
    """Write the settings to root/name. Raises FileExistsError unless `root` is empty or begun with the very same."""
    path = root / name
    found = json.loads(path.read_text()) if path.is_file() else None
    if found is None and root.exists() and any(root.iterdir()):
        raise FileExistsError(f"{root}: expected an empty folder, found other files; name another one")
    if found not in (None, settings):
        raise FileExistsError(f"{path}: expected {settings}, found {found}; name another folder")
    root.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings) + "\n")


def save(image: Image.Image, path: Path, **options: int) -> None:
    """As PNG or JPEG, by rename, so that a file is either whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    image.save(unfinished, "PNG" if path.suffix == ".png" else "JPEG", **options)
    unfinished.replace(path)


def write_all(write: Callable[[int], Path], count: int, processes: int) -> list[Path]:
    """What `write` returns for 0..count-1, in this order; with several processes `write` must pickle."""
    if processes == 1:
        return [write(index) for index in range(count)]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        return list(pool.map(write, range(count), chunksize=32))
