"""A dataset whose targets know the image's row in the store and the crop that was taken."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from tokenmix_loader.batch import ANY_STORE, NO_MAP, MapTarget
from tokenmix_loader.join.rows import MISSING, check_size, find_rows
from tokenmix_loader.join.sources import Labels, source_of
from tokenmix_loader.shapes import require_choice
from tokenmix_loader.store_access import MapStore, open_store
from tokenmix_loader.tracing.trace import TracedTransform, trace


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
        `keys` (paths relative to its root) and `labels` (default: its `targets`); labels are the class indices
        that a plain ImageFolder gives. `transform`: a training transform that `trace` knows, default: the
        dataset's own; it may be set later, as timm's create_loader does. `store` may be its path; it is not kept:
        workers need none. `missing`: an image without a map is an "error", or is scored by "area".

        Warns once of images that could not be read at extraction: they are scored by area. Raises
        StoreMismatch for missing or relabelled keys, StoreError for repeated ones, UntraceableTransform, and
        what `source_of` raises.
        """
        require_choice("MapDataset: missing", missing, MISSING)
        source = source_of(dataset, keys, labels)
        self._load, self._labels = source.load, source.labels
        maps = open_store(store)
        self._rows = find_rows(source.keys, source.labels, maps, missing)
        self._stores = np.where(self._rows == NO_MAP, ANY_STORE, maps.header.identities(self._rows))
        self._sizes = np.where(self._rows[:, None] == NO_MAP, 0, maps.sizes[self._rows])
        self._key_of = source.keys.__getitem__
        self.transform = _only_one(transform, None if keys is not None else dataset.transform)

    @property
    def transform(self) -> TracedTransform:
        """The traced transform; setting traces, and None leaves images as they are."""
        return self._transform

    @transform.setter
    def transform(self, transform: Any) -> None:
        self._transform = trace(transform)

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
        image, place = self._transform.placed(loaded)
        target: Any = int(self._labels[index]), int(self._rows[index]), place, int(self._stores[index])
        return image, MapTarget(*target)


def _only_one(given: Any, own: Any) -> Any:
    if given is not None and own is not None:
        raise ValueError("MapDataset: transform: expected one, found another in the dataset; give it in one place")
    return own if given is None else given
