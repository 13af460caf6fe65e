"""Joining samples that come by as a stream, each with its key: WebDataset and other iterable datasets."""

from __future__ import annotations

from os import PathLike
from typing import Any

import numpy as np
from xxhash import xxh3_64_intdigest

from tokenmix_loader.batch import NO_MAP, MapTarget
from tokenmix_loader.join.dataset import check_size, traced_or_none, warn_of_unreadable
from tokenmix_loader.join.sources import require_pil
from tokenmix_loader.shapes import require_choice
from tokenmix_loader.store_access import STATUS_OK, MapStore, StoreMismatch, open_store


class MapJoin:
    """What `MapDataset` does to a sample, for datasets without an index.

        join = MapJoin(store, transform)
        dataset = wds.WebDataset(urls).decode("pil").to_tuple("jpg", "cls", "__key__").map(lambda s: join(*s))

    Keys are looked up with the images' extensions and without, because WebDataset's have none. It holds 16 bytes per
    row, which forked workers share.
    """

    def __init__(self, store: MapStore | str | PathLike[str], transform: Any = None, *, missing: str = "error") -> None:
        """`transform`: one that `trace` knows; `missing`: an image without a map is an "error", or scored by "area".

        Raises UntraceableTransform, StoreMismatch for keys that differ in their extensions alone.
        """
        require_choice("MapJoin: missing", missing, ("error", "area"))
        self._store, self._missing = open_store(store), missing
        self._traced = traced_or_none(transform)
        warn_of_unreadable(self._store, self._store.keys, np.flatnonzero(self._store.statuses != STATUS_OK))
        hashes = np.fromiter((_hash(key) for key in self._store.keys), np.uint64, len(self._store))
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]
        twice = np.flatnonzero(self._hashes[1:] == self._hashes[:-1])
        if len(twice):
            one, other = (self._store.keys[int(self._order[at])] for at in (twice[0], twice[0] + 1))
            raise StoreMismatch(
                f"{self._store!r}: expected keys that differ without their extensions, found {one!r} and {other!r}; "
                "use MapDataset"
            )

    def __call__(self, image: Any, label: int, key: str) -> tuple[Any, MapTarget]:
        """The transformed image and its target; `image` is a PIL image.

        Raises StoreMismatch for a key without a map, for another label and another shape than at extraction, TypeError
        for anything but a PIL image and a text.
        """
        if not isinstance(key, str):
            raise TypeError(f"MapJoin: expected a key of type str, found {key!r}; decode it")
        require_pil(key, image)
        row = self._row(key)
        if row != NO_MAP:
            self._check(row, image, int(label), key)
        place: Any = np.array([1.0, 0, 0, 0, 1, 0, 0, 0, 1, 1])
        if self._traced is not None:
            image, place = self._traced.placed(image)
        one: tuple[Any, ...] = (int(label), row, place)
        return image, MapTarget(*one)

    def _row(self, key: str) -> int:
        wanted = np.uint64(_hash(key))
        at = int(np.searchsorted(self._hashes, wanted))
        if at < len(self._hashes) and self._hashes[at] == wanted:
            row = int(self._order[at])
            return row if self._store.statuses[row] == STATUS_OK else NO_MAP
        if self._missing == "error":
            raise StoreMismatch(
                f"{self._store!r}: expected a map of {key!r}, found none (a key of the store: {self._store.keys[0]}); "
                "extract it, or pass missing='area' to score such images by area"
            )
        return NO_MAP

    def _check(self, row: int, image: Any, label: int, key: str) -> None:
        check_size(key, image.size, self._store.sizes[row].tolist())
        if label != self._store.labels[row]:
            raise StoreMismatch(
                f"{key!r}: expected label {self._store.labels[row]}, as its map was made for, found {label}; "
                "use the class indices that the maps were extracted with"
            )


def _hash(key: str) -> int:
    """Of the key up to the first dot of the file's name, as WebDataset cuts it."""
    folder, slash, name = key.rpartition("/")
    return xxh3_64_intdigest((folder + slash + name.partition(".")[0]).encode())
