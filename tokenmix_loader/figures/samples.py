"""A sample of a store's images: their maps, and what is measured on them. Nothing else reads maps for a report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tokenmix_loader.batch import NO_MAP
from tokenmix_loader.join.fingerprints import require_same_files
from tokenmix_loader.join.original_images import Images, Ints, require_readable
from tokenmix_loader.join.rows import match_rows
from tokenmix_loader.scoring.evidence import evidence as evidence_of
from tokenmix_loader.store_access import STATUS_OK, MapStore, StoreError

Floats = npt.NDArray[np.float32]
CENTRE = (0.25, 0.75)  # of each side of the view: a quarter of its area
READ_ROWS = 16  # at a time: a row of kind features takes megabytes


@dataclass(frozen=True)
class Join:
    """Images and their maps, as far as there are any by now."""

    images: Images
    maps: MapStore
    rows: Ints  # [N], the store's row of each image; NO_MAP where it has none
    usable: Ints  # those images that have a map


@dataclass(frozen=True)
class Samples:
    """S images with their evidence [S, h, w] and what is measured on it; all arrays in one order, that of the store."""

    image: Ints
    row: Ints
    evidence: Floats

    @property
    def mass(self) -> Floats:
        """Mean evidence of a token, [S]."""
        found: Floats = self.evidence.mean(axis=(1, 2), dtype=np.float32)
        return found

    @property
    def peak(self) -> Floats:
        """The largest evidence of a token, [S]."""
        found: Floats = self.evidence.max(axis=(1, 2))
        return found

    @property
    def central(self) -> Floats:
        """The share of the evidence in the central quarter of the view, [S]; NaN where there is no evidence."""
        found: Floats = self.share @ central_weights(*self.evidence.shape[1:]).ravel()
        return found

    @property
    def average(self) -> Floats:
        """The mean over all maps with evidence, each of which counts the same, [h, w]; sums to 1, or 0 without any."""
        seen = self.share[self.mass > 0]
        mean: Floats = seen.sum(axis=0, dtype=np.float32) / max(len(seen), 1)
        return mean.reshape(self.evidence.shape[1:])

    @property
    def share(self) -> Floats:
        """Each map's evidence as shares that sum to 1, [S, h * w]; NaN where there is none."""
        flat = self.evidence.reshape(len(self.evidence), -1)
        total = flat.sum(axis=1, keepdims=True)
        found: Floats = np.divide(flat, total, out=np.full_like(flat, np.nan), where=total > 0)
        return found


def join(images: Images, store: str | Path, *, same_files: bool) -> Join:
    """Find the images' maps in a store that need not be finished.

    Raises StoreMismatch where the images are not those that the maps were made from, StoreError where the store cannot
    be read or has no map yet.
    """
    maps = MapStore(store, unfinished=True)
    if not maps.finished.any():
        raise StoreError(f"{maps}: expected a finished shard or more, found none yet; run `tokenmix extract`")
    rows = match_rows(images.keys, images.labels, maps, "error" if maps.finished.all() else "area")
    ok = np.flatnonzero((rows != NO_MAP) & maps.finished[rows] & (maps.statuses[rows] == STATUS_OK))
    if same_files:
        with_maps = np.full_like(rows, NO_MAP)
        with_maps[ok] = rows[ok]
        require_same_files(images.keys, with_maps, images.open, maps)
    return Join(images, maps, rows, require_readable(maps, ok))


def draw_samples(joined: Join, count: int, evidence: str, rng: np.random.Generator) -> Samples:
    """`count` of the images, or all where there are fewer: one drawn from each of so many equal runs of the store.

    So classes have about the same shares as in the store, and no more maps than these are read.
    """
    usable = joined.usable[np.argsort(joined.rows[joined.usable], kind="stable")]
    edges = np.arange(min(count, len(usable)) + 1) * len(usable) // min(count, len(usable))
    image = usable[rng.integers(edges[:-1], edges[1:])]
    row = joined.rows[image]
    batches = (row[at : at + READ_ROWS] for at in range(0, len(row), READ_ROWS))
    maps = [evidence_of(joined.maps.read(batch), evidence).numpy() for batch in batches]
    return Samples(image, row, np.concatenate(maps))


def central_weights(h: int, w: int) -> Floats:
    """How much of each cell of a grid lies in the central quarter of its area, [h, w]."""
    vertical, horizontal = (_overlap(side) for side in (h, w))
    return np.outer(vertical, horizontal).astype(np.float32)


def _overlap(cells: int) -> npt.NDArray[np.float64]:
    edges = np.clip(np.arange(cells + 1) / cells, *CENTRE)
    return np.diff(edges) * cells
