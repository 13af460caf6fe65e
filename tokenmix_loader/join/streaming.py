"""Joining samples that come by as a stream, each with its key: WebDataset and other iterable datasets."""

from __future__ import annotations

import operator
from os import PathLike
from typing import Any

import numpy as np
from PIL import Image
from xxhash import xxh3_64_intdigest

from tokenmix_loader.batch import ANY_STORE, NO_MAP, NOT_FOLLOWED, MapTarget
from tokenmix_loader.join.orientation import turn_applied, turned_back, upright_size, warn_of_unknown_orientations
from tokenmix_loader.join.rows import MISSING, OTHER_LABELS, check_size, find_rows
from tokenmix_loader.join.source import as_image, naming
from tokenmix_loader.shapes import require_choice
from tokenmix_loader.store_access import UNKNOWN, UPRIGHT, MapStore, StoreMismatch, open_store
from tokenmix_loader.tracing.trace import trace


class MapJoin:
    """What `MapDataset` does to a sample, for datasets without an index.

        join = MapJoin(store, transform)
        dataset = wds.WebDataset(urls).decode("pil").to_tuple("jpg", "cls", "__key__").map(lambda s: join(*s))

    Keys are cut at the first dot of the file's name before they are compared, because WebDataset's have no extensions.
    It holds 16 bytes per row beside the store's own columns, which forked workers share.
    """

    def __init__(self, store: MapStore | str | PathLike[str], transform: Any = None, *, missing: str = "error") -> None:
        """`transform`: one that `trace` knows; `missing`: an image without a map is an "error", or scored by "area".

        Warns once of images that could not be read at extraction: they are scored by area. Raises
        UntraceableTransform, StoreMismatch for keys that differ in their extensions alone.
        """
        require_choice("MapJoin: missing", missing, MISSING)
        self._store, self._missing = open_store(store), missing
        self._traced, self._follows = trace(transform), transform is not None
        keys = self._store.keys
        rows = find_rows(keys, self._store.labels, self._store)
        hashes = np.fromiter((_hash(key) for key in keys), np.uint64, len(keys))
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._rows = hashes[order], rows[order]
        unknown = int((self._store.orientations[rows[rows != NO_MAP]] == UNKNOWN).sum())
        if unknown:
            warn_of_unknown_orientations(self._store, unknown, stacklevel=3)
        twice = np.flatnonzero(self._hashes[1:] == self._hashes[:-1])
        if len(twice):
            one, other = (keys[int(order[at])] for at in (twice[0], twice[0] + 1))
            raise StoreMismatch(
                f"{self._store}: expected keys that differ without their extensions, found {one!r} and {other!r}; "
                "use MapDataset"
            )

    def __call__(self, image: Any, label: int, key: str) -> tuple[Any, MapTarget]:
        """The transformed image and its target; `image` is a PIL image.

        Raises StoreMismatch for a key without a map, for another label and another shape than at extraction, and where
        it is not certain whether the image was turned by EXIF; OSError for an image that cannot be decoded, TypeError
        for anything but a PIL image, a whole number and a text.
        """
        if not isinstance(key, str):
            raise TypeError(f"MapJoin: expected a key of type str, found {key!r}; decode it")
        label = _class_index(key, label)
        with naming(lambda: key):
            image = as_image(key, image)
        row = self._find_row(key)
        turn = UPRIGHT if row == NO_MAP else self._check(row, image, label, key)
        image, place = self._traced.placed(image)
        if turn != UPRIGHT:
            place = turned_back(place, turn)
        if not self._follows:
            place[6:] = NOT_FOLLOWED
        target: Any = label, row, place, ANY_STORE if row == NO_MAP else int(self._store.header.identities(row))
        return image, MapTarget(*target)

    def _find_row(self, key: str) -> int:
        wanted = np.uint64(_hash(key))
        at = int(np.searchsorted(self._hashes, wanted))
        if at < len(self._hashes) and self._hashes[at] == wanted:
            return int(self._rows[at])
        if self._missing == "error":
            raise StoreMismatch(
                f"{self._store}: expected a map of {key!r}, found none (a key of the store: {self._store.keys[0]}); "
                "extract it, or pass missing='area' to score such images by area"
            )
        return NO_MAP

    def _check(self, row: int, image: Image.Image, label: int, key: str) -> int:
        """How the image was turned since it was decoded, see `turn_applied`."""
        size = self._store.sizes[row].tolist()
        turn = turn_applied(key, image, size, int(self._store.orientations[row]))
        check_size(key, upright_size(image.size, turn), size)
        if label != self._store.labels[row]:
            raise StoreMismatch(
                f"{key!r}: expected label {self._store.labels[row]}, as its map was made for, found {label}; "
                f"{OTHER_LABELS}"
            )
        return turn


def _class_index(key: str, label: Any) -> int:
    try:
        return operator.index(label)
    except TypeError as error:
        raise TypeError(
            f"{key!r}: expected a class index, found the label {label!r}; decode it, or map names to indices first"
        ) from error


def _hash(key: str) -> int:
    """Of the key up to the first dot of the file's name, as WebDataset cuts it."""
    folder, slash, name = key.rpartition("/")
    return xxh3_64_intdigest((folder + slash + name.partition(".")[0]).encode())
