"""Whether images are still the files that a store was made of: another split or version may have the same names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt

from extract.errors import ExtractError
from extract.images.image_list import ImageList
from store import Header, ShardError, StoreMismatch, read_header
from store.fingerprint import difference_of, report_of, spread
from store.folder.files import present_shards
from store.format.shard import open_shard
from store.spec import FINGERPRINT, HEADER_FILE, STATUS_OK, UNKNOWN, shard_name

SAMPLED_FILES = 64  # before a job goes on; tokenmix_loader/join/fingerprints.py says what such a sample finds
_THREADS = 16  # they wait for the file system


def require_same_files(images: ImageList, store: Path, header: Header) -> None:
    """Raise StoreMismatch where a store's finished rows were made of other files; some are compared, evenly spread.

    `images` and `header`: in the store's order and of its configuration. Nothing is said of other ones, which are
    refused for that, nor of files that cannot be opened.
    """
    if not (store / HEADER_FILE).exists():
        return
    stored = read_header(store)
    if header.after(len(stored.earlier)).content_digest != stored.content_digest:
        return
    compared: list[int] = []
    changed = [
        f"{images.keys[row]}: {found}"
        for row, found in other_files(images, store, SAMPLED_FILES, compared.append)
        if isinstance(found, str)
    ]
    if changed:
        raise StoreMismatch(
            f"{store}: {report_of(sum(compared), changed)}"
            "Give the images that they were made of, or another path to start a new store. Where some images were "
            "changed on purpose, `tokenmix verify --images` names them and their shards: remove these, then go on."
        )


def other_files(
    images: ImageList, store: Path, most: int | None = None, on_compared: Callable[[int], object] = lambda _: None
) -> Iterator[tuple[int, str | Exception]]:
    """Row, and what was found instead, of every image with a map whose file is not the one of which it was made.

    `images`: in the store's order. `most`: compare so many, evenly spread; default: all. `on_compared` gets numbers of
    files that were compared since its last call. Shards that are missing or damaged are left out.
    """
    header = read_header(store)
    if FINGERPRINT.name not in header.columns:
        return
    finished = [np.arange(*header.sharding.bounds(shard)) for shard in present_shards(store, header)]
    rows = np.concatenate([np.empty(0, np.int64), *finished])
    chosen = rows[spread(len(rows), len(rows) if most is None else most)]
    with ThreadPoolExecutor(_THREADS) as pool:
        for shard, group in groupby(chosen.tolist(), header.sharding.shard_of):
            stored = _fingerprints(store, header, shard)
            start, _ = header.sharding.bounds(shard)
            known = [row for row in group if stored[row - start] != UNKNOWN]
            found = pool.map(lambda row: _difference(images, row, int(stored[row - start])), known)  # noqa: B023 -- used up here
            yield from ((row, what) for row, what in zip(known, found, strict=True) if what)
            on_compared(len(known))


def _fingerprints(store: Path, header: Header, shard: int) -> npt.NDArray[np.uint64]:
    """Of a shard's rows [n]; those without a map, which a repaired file may get, count as unknown."""
    try:
        with open_shard(store / shard_name(shard), header, shard, [FINGERPRINT.name, "status"]) as file:
            found: npt.NDArray[np.uint64] = file[FINGERPRINT.name][()]
            found[file["status"][()] != STATUS_OK] = UNKNOWN
            return found
    except ShardError:
        start, stop = header.sharding.bounds(shard)
        return np.full(stop - start, UNKNOWN, FINGERPRINT.dtype)


def _difference(images: ImageList, row: int, fingerprint: int) -> str | Exception:
    try:
        with images.open(row) as file:
            return difference_of(file, fingerprint)
    except (OSError, ExtractError) as error:
        return error
