"""A dataset whose targets know the image's row in the store and the crop that was taken."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset
from torchvision.transforms import Compose

from tokenmix_loader.batch import NO_MAP, MapTarget
from tokenmix_loader.join.sources import Labels, source_of
from tokenmix_loader.shapes import require_choice
from tokenmix_loader.store_access import STATUS_OK, MapStore, StoreMismatch, list_digest, open_store
from tokenmix_loader.tracing.trace import TracedTransform, trace

Rows = npt.NDArray[np.int64]
_AS_IT_IS = trace(Compose([]))


class MapDataset(Dataset[tuple[Any, MapTarget]]):
    """Images of a dataset, transformed, with `MapTarget`s for `TokenMix`."""

    def __init__(
        self,
        dataset: Any,
        store: MapStore | str | PathLike[str],
        transform: Any = None,
        *,
        missing: str = "error",
        keys: Sequence[str] | None = None,
        labels: Labels | None = None,
    ) -> None:
        """Join the dataset to the store by key.

        `dataset`: torchvision's ImageFolder, timm's ImageDataset, or any dataset of (PIL image, label) with
        `keys` (paths relative to its root) and `labels` (default: its `targets`). `transform`: a training
        transform that `trace` knows, default: the dataset's own; it may be set later, as timm's create_loader
        does. `store` may be its path; it is not kept: workers need none. `missing`: an image without a map is an
        "error", or is scored by "area".

        Warns once of images that could not be read at extraction: they are scored by area. Raises
        StoreMismatch for missing or relabelled keys, StoreError for repeated ones, UntraceableTransform, and
        what `source_of` raises.
        """
        require_choice("MapDataset: missing", missing, ("error", "area"))
        source = source_of(dataset, keys, labels)
        self._load, self._labels = source.load, source.labels
        maps = open_store(store)
        self._rows = join(source.keys, source.labels, maps, missing)
        self._sizes = np.where(self._rows[:, None] == NO_MAP, 0, maps.sizes[self._rows])
        self._key_of = source.keys.__getitem__
        self.transform = _only_one(transform, None if keys is not None else dataset.transform)

    @property
    def transform(self) -> TracedTransform | None:
        """The traced transform; setting traces."""
        return self._transform

    @transform.setter
    def transform(self, transform: Any) -> None:
        self._transform = traced_or_none(transform)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Any, MapTarget]:
        """Image and target.

        Raises OSError, and never returns another image, where the file cannot be read; StoreMismatch where the
        image is of another shape than at extraction.
        """
        loaded = self._load(index)
        check_size(self._key_of(index), loaded.size, self._sizes[index].tolist())
        image, place = (self._transform or _AS_IT_IS).placed(loaded)
        one: tuple[Any, ...] = (int(self._labels[index]), int(self._rows[index]), place)
        return image, MapTarget(*one)


def traced_or_none(transform: Any) -> TracedTransform | None:
    """`trace(transform)`, unless it is traced already or there is none."""
    return transform if transform is None or isinstance(transform, TracedTransform) else trace(transform)


def check_size(key: str, size: Sequence[int], stored: Sequence[int]) -> None:
    """Maps are in units of the image, so it may have been scaled since, but neither turned nor cropped.

    Raises StoreMismatch for another shape; `stored` (0, 0) is any.
    """
    (width, height), (stored_width, stored_height) = size, stored
    if abs(width * stored_height - height * stored_width) > stored_width + stored_height:
        raise StoreMismatch(
            f"{key!r}: expected an image of {stored_width} x {stored_height} px or scaled from it, "
            f"as its map was made from, found {width} x {height}; load images without EXIF rotation or cropping, "
            "or extract their maps anew"
        )


def join(keys: Sequence[str], labels: Labels, store: MapStore, missing: str = "error") -> Rows:
    """The store's row of each key, int64 [N]; -1 for images without a map. See `MapDataset`."""
    expected: Rows = np.asarray(labels, np.int64)
    if list_digest(keys, expected.astype(np.int32)) == store.header.dataset["digest"]:
        rows: Rows = np.arange(len(keys))
        _check_order(keys, expected, store)
    else:
        table = {key: row for row, key in enumerate(store.keys)}
        rows = np.array([table.get(key, NO_MAP) for key in keys], np.int64)
        _check_join(keys, expected, rows, store, missing)
    return _without_unreadable(keys, rows, store)


def _check_order(keys: Sequence[str], labels: Rows, store: MapStore) -> None:
    """The header lists the images in the dataset's order; do the rows that the store has looked at, too?"""
    for row, stored in store.checked.items():
        if stored != (keys[row], labels[row]):
            raise StoreMismatch(
                f"{store!r}: row {row}: expected {keys[row]!r}, label {labels[row]}, as its header lists them, found "
                f"{stored[0]!r}, label {stored[1]}; rows were exchanged: run `tokenmix verify`"
            )


def _check_join(keys: Sequence[str], labels: Rows, rows: Rows, store: MapStore, missing: str) -> None:
    absent = np.flatnonzero(rows == NO_MAP)
    if len(absent) == len(keys) or (len(absent) and missing == "error"):
        raise StoreMismatch(
            f"{store!r}: expected a map for each of {len(keys)} images, found none for {len(absent)}: "
            f"{_examples(keys, absent)} (a key of the store: {store.keys[0]}); extract them, or pass missing='area' "
            "to score them by area"
        )
    stored = np.where(rows == NO_MAP, labels, store.labels[rows])
    relabelled = np.flatnonzero(stored != labels)
    if len(relabelled):
        found = ", ".join(f"{keys[i]} (dataset {labels[i]}, store {stored[i]})" for i in relabelled[:3])
        raise StoreMismatch(
            f"{store!r}: expected the dataset's labels, found {len(relabelled)} others: {found}; "
            "use the class indices that the maps were extracted with"
        )


def _without_unreadable(keys: Sequence[str], rows: Rows, store: MapStore) -> Rows:
    unreadable = np.flatnonzero((rows != NO_MAP) & (store.statuses[rows] != STATUS_OK))
    warn_of_unreadable(store, keys, unreadable)
    rows[unreadable] = NO_MAP
    return rows


def warn_of_unreadable(store: MapStore, keys: Sequence[str], unreadable: npt.NDArray[np.intp]) -> None:
    """Once, of the images among `keys` that will be scored by area."""
    if len(unreadable):
        warnings.warn(
            f"{store!r}: expected a map for every image, found {len(unreadable)} that could not be read at extraction: "
            f"{_examples(keys, unreadable)}; they are scored by area until they are repaired and extracted anew",
            stacklevel=5,
        )


def _examples(keys: Sequence[str], chosen: npt.NDArray[np.intp]) -> str:
    return ", ".join(keys[i] for i in chosen[:3]) + (", ..." if len(chosen) > 3 else "")


def _only_one(given: Any, own: Any) -> Any:
    if given is not None and own is not None:
        raise ValueError("MapDataset: transform: expected one, found another in the dataset; give it in one place")
    return own if given is None else given
