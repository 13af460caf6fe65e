"""From a dataset's keys to rows of a store, checked: images of other keys, labels or shapes are never scored."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tokenmix_loader.batch import NO_MAP
from tokenmix_loader.join.source import Labels
from tokenmix_loader.store_access import STATUS_OK, MapStore, StoreMismatch, list_digest

Rows = npt.NDArray[np.int64]
MISSING = ("error", "area")  # what an image without a map is
OTHER_LABELS = (
    "the dataset was made with a class map or other class indices than the maps: leave its class map out "
    "(--class-map, class_map=); a class folder more or less numbers those behind it anew; torchvision's ImageFolder "
    "counts folder 10 before folder 2 and Z before a, where the maps have timm's order, so make such a dataset by "
    "timm.data.create_dataset"
)


def find_rows(keys: Sequence[str], labels: Labels, store: MapStore) -> Rows:
    """The store's row of each key, int64 [N]; -1 for an image whose map could not be made.

    Warns once of images that could not be read at extraction, at the line that made the MapJoin or asked for a picture.
    Raises what `match_rows` raises.
    """
    rows = match_rows(keys, labels, store)
    unreadable = unreadable_at_extraction(rows, store)
    warn_of_unreadable(keys, unreadable, store, stacklevel=4)
    rows[unreadable] = NO_MAP
    return rows


def match_rows(keys: Sequence[str], labels: Labels, store: MapStore, missing: str = "error") -> Rows:
    """The store's row of each key, int64 [N]; -1 for an image that the store does not know.

    Raises StoreMismatch for other labels, for none of the keys known and, unless `missing` is "area", for any unknown
    key; StoreError for repeated keys.
    """
    expected: Rows = np.asarray(labels, np.int64)
    if list_digest(keys, expected.astype(np.int32)) == store.header.dataset["digest"]:
        rows: Rows = np.arange(len(keys))
        _check_rows_in_order(keys, expected, store)
    else:
        # `tar -cf x.tar .` puts ./ before the names, and a folder does not have it
        row_of = {key.removeprefix("./"): row for row, key in enumerate(store.keys)}
        rows = np.array([row_of.get(key.removeprefix("./"), NO_MAP) for key in keys], np.int64)
        _check_all_found(keys, rows, store, missing)
        _check_labels(keys, expected, rows, store)
    return rows


def check_size(key: str, size: Sequence[int], stored: Sequence[int]) -> None:
    """Maps are in units of the image, so it may have been scaled since extraction, but neither turned nor cropped.

    `size` and `stored` are (width, height) in px; `stored` (0, 0) fits any. Raises StoreMismatch for another shape.
    """
    if not same_shape(size, stored):
        raise StoreMismatch(
            f"{key!r}: expected an image of {stored[0]} x {stored[1]} px or scaled from it, as its map was made from, "
            f"found {size[0]} x {size[1]}; load images without EXIF rotation or cropping, or extract their maps anew"
        )


def same_shape(size: Sequence[int], stored: Sequence[int]) -> bool:
    """Whether images of these (width, height) in px are of one shape, to a pixel of the stored one's."""
    (width, height), (stored_width, stored_height) = size, stored
    return abs(width * stored_height - height * stored_width) <= stored_width + stored_height


def _check_rows_in_order(keys: Sequence[str], labels: Rows, store: MapStore) -> None:
    """The header lists the images in the dataset's order: so must the few rows that were read on opening."""
    for row, stored in store.checked.items():
        if stored != (keys[row], labels[row]):
            raise StoreMismatch(
                f"{store}: row {row}: expected {keys[row]!r}, label {labels[row]}, as its header lists them, found "
                f"{stored[0]!r}, label {stored[1]}; rows were exchanged: run `tokenmix verify`"
            )


def _check_all_found(keys: Sequence[str], rows: Rows, store: MapStore, missing: str) -> None:
    absent = np.flatnonzero(rows == NO_MAP)
    if len(absent) == len(keys) or (len(absent) and missing == "error"):
        raise StoreMismatch(
            f"{store}: expected a map for each of {len(keys)} images, found none for {len(absent)}: "
            f"{_examples(keys, absent)} (a key of the store: {store.keys[0]}); extract them, or pass missing='area' "
            "to score them by area"
        )


def _check_labels(keys: Sequence[str], labels: Rows, rows: Rows, store: MapStore) -> None:
    stored = np.where(rows == NO_MAP, labels, store.labels[rows])
    differing = np.flatnonzero(stored != labels)
    if len(differing):
        found = ", ".join(f"{keys[i]} (dataset {labels[i]}, store {stored[i]})" for i in differing[:3])
        raise StoreMismatch(
            f"{store}: expected the dataset's labels, found {len(differing)} others: {found}; {OTHER_LABELS}"
        )


def unreadable_at_extraction(rows: Rows, store: MapStore) -> npt.NDArray[np.intp]:
    """Which of the images with these rows the store has no map of, because they could not be read."""
    return np.flatnonzero((rows != NO_MAP) & (store.statuses[rows] != STATUS_OK))


def warn_of_unreadable(
    keys: Sequence[str], images: npt.NDArray[np.intp], store: MapStore, *, left_out: bool = False, stacklevel: int
) -> None:
    """Warn of images without a map, if there are any; `stacklevel` as in `warnings.warn`, from here."""
    if len(images):
        what = "they still cannot be read, and are left out" if left_out else "they are scored by area"
        warnings.warn(
            f"{store}: expected a map for every image, found {len(images)} that could not be read at extraction: "
            f"{_examples(keys, images)}; {what} until they are repaired and extracted anew (`tokenmix verify "
            "--retry-unreadable`)",
            stacklevel=stacklevel,
        )


def _examples(keys: Sequence[str], chosen: npt.NDArray[np.intp]) -> str:
    return ", ".join(keys[i] for i in chosen[:3]) + (", ..." if len(chosen) > 3 else "")
