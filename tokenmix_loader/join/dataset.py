"""A dataset whose targets know the image's row in the store and the crop that was taken."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch.utils.data import Dataset

from tokenmix_loader.batch import ANY_STORE, NO_MAP, NOT_FOLLOWED, MapTarget
from tokenmix_loader.join.fingerprints import require_same_files
from tokenmix_loader.join.orientation import turn_applied, turned_back, upright_size, warn_of_unknown_orientations
from tokenmix_loader.join.rows import MISSING, check_size, match_rows, unreadable_at_extraction, warn_of_unreadable
from tokenmix_loader.join.source import Labels, load_image, naming, still_unreadable
from tokenmix_loader.join.sources import Given, source_of
from tokenmix_loader.shapes import require_choice
from tokenmix_loader.store_access import UNKNOWN, UPRIGHT, MapStore, open_store
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
        root: str | PathLike[str] | None = None,
        input_key: str = "image",
        target_key: str = "label",
        same_files: bool = True,
    ) -> None:
        """Join the dataset to the store by key.

        `dataset`: torchvision's ImageFolder, timm's ImageDataset, Hugging Face's Dataset, torch's Subset of one, or any
        dataset of (PIL image, label) or of mappings, with `keys` (paths relative to its root) and `labels` (default:
        its `targets`); labels are the class indices that a plain ImageFolder gives. `input_key`, `target_key`: the
        fields of mappings and the columns of Hugging Face's tables. `root`: the folder that `keys` are relative to;
        only where a loader may follow EXIF's orientation, and its files are needed to see whether it did.

        `transform`: a training transform that `trace` knows, default: the dataset's own; it may be set later, as timm's
        create_loader does. `store` may be its path; it is not kept: workers need none.

        `missing`: an image without a map is an "error", or is scored by "area". Of images that could not be read at
        extraction it warns once: they are scored by area. With "area" those that still cannot be read are left out, so
        that the dataset is shorter than the one it was given (`indices`); otherwise they raise OSError in training.

        `same_files`: some files are compared with those that the maps were made from, for another split may have the
        same names; False for pictures that were resized or saved anew. Where only `keys` are known, `root` says where
        the files are.

        Raises StoreMismatch for missing or relabelled keys and for other files, StoreError for repeated keys,
        UntraceableTransform, and what `source_of` raises.
        """
        require_choice("MapDataset: missing", missing, MISSING)
        source, maps = source_of(dataset, Given(keys, labels, root, input_key, target_key)), open_store(store)
        if not len(source.samples):
            raise ValueError(
                f"MapDataset: expected images, found an empty {type(dataset).__name__}; look how it was made"
            )
        rows = match_rows(source.keys, source.labels, maps, missing)
        unreadable = unreadable_at_extraction(rows, maps)
        lost = still_unreadable(source.files, unreadable) if missing == "area" else unreadable[:0]
        warn_of_unreadable(source.keys, np.setdiff1d(unreadable, lost), maps, stacklevel=3)
        warn_of_unreadable(source.keys, lost, maps, left_out=True, stacklevel=3)
        rows[unreadable] = NO_MAP
        if same_files and source.files.open is not None:
            require_same_files(source.keys, rows, source.files.open, maps)
        self._files, self._labels, self._rows = source.files, source.labels, rows
        self._key_of = source.keys.__getitem__
        self._stores = np.where(rows == NO_MAP, ANY_STORE, maps.header.identities(rows))
        self._sizes = np.where(rows[:, None] == NO_MAP, 0, maps.sizes[rows])
        known_upright = (rows == NO_MAP) | (not source.files.may_turn)
        self._orientations = np.where(known_upright, UPRIGHT, maps.orientations[rows])
        self._indices = np.flatnonzero(~np.isin(source.samples, lost))
        self._images = source.samples[self._indices]
        if source.files.open is None:
            self._look_at_turned_ones(maps)
        self.transform = _only_one(transform, source.files.transform)

    @property
    def indices(self) -> npt.NDArray[np.int64]:
        """Which sample of the given dataset each sample is [N]: all, but for images that were left out."""
        return self._indices

    @property
    def transform(self) -> TracedTransform:
        """The traced transform; setting traces. None leaves images as they are, which cannot be mixed."""
        return self._transform

    @transform.setter
    def transform(self, transform: Any) -> None:
        self._transform, self._follows = trace(transform), transform is not None

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Any, MapTarget]:
        """Image and target.

        Raises OSError, and never returns another image, where the file cannot be read; StoreMismatch where the
        image is of another shape than at extraction, and where it is not certain whether it was turned.
        """
        image = int(self._images[index])
        loaded = load_image(self._files, image)
        turn = self._turn_of(image, loaded)
        transformed, place = self._transform.placed(loaded)
        if turn != UPRIGHT:
            place = turned_back(place, turn)
        if not self._follows:
            place[6:] = NOT_FOLLOWED
        target: Any = int(self._labels[image]), int(self._rows[image]), place, int(self._stores[image])
        return transformed, MapTarget(*target)

    def _turn_of(self, image: int, loaded: Image.Image) -> int:
        """How the loader turned the image, see `turn_applied`; StoreMismatch for another shape than at extraction."""
        turn, orientation, size = UPRIGHT, int(self._orientations[image]), self._sizes[image].tolist()
        if orientation != UPRIGHT:
            open_file = self._files.open and partial(self._files.open, image)
            with naming(partial(self._files.name, image)):
                turn = turn_applied(self._key_of(image), loaded, size, orientation, open_file)
        check_size(self._key_of(image), upright_size(loaded.size, turn), size)
        return turn

    def _look_at_turned_ones(self, maps: MapStore) -> None:
        """Without files, try one image of each orientation, to stop early where turns cannot be recognised."""
        unknown = int((self._orientations == UNKNOWN).sum())
        if unknown:
            warn_of_unknown_orientations(maps, unknown, stacklevel=4)
        _, firsts = np.unique(self._orientations, return_index=True)
        for image in firsts[self._orientations[firsts] > UPRIGHT].tolist():
            with suppress(OSError):  # an image that cannot be read is reported when it is needed
                self._turn_of(image, load_image(self._files, image))


def _only_one(given: Any, own: Any) -> Any:
    if given is not None and own is not None:
        raise ValueError("MapDataset: transform: expected one, found another in the dataset; give it in one place")
    return own if given is None else given
