"""The sampled photographs under their maps, sorted so that the telling ones come first."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tokenmix_loader.figures.accuracy import OutputNames
from tokenmix_loader.figures.samples import Join, Samples
from tokenmix_loader.figures.thumbnails import SIDE_PX, data_uri, overlay
from tokenmix_loader.join.original_images import Ints, read_photograph
from tokenmix_loader.join.rows import check_size

FIRST = 12  # of a group, those that are seen without unfolding the others
# Titles of the groups, and what to think of them.
MOST = "Most evidence", "The strongest maps: their lit tokens should lie on what the label names."
LEAST = (
    "Least evidence",
    "The faintest maps first. A small or hidden object is a good reason, a picture of something else is not.",
)
OTHER = (
    "The teacher takes them for something else",
    "The faintest maps first. Either the label is wrong or the teacher is; training uses the label's evidence all the "
    "same.",
)
EMPTY = "Empty maps", "No token has any evidence. Training scores such images by area, as CutMix does."
BETWEEN = "All others", "Those in between, the most evidence first."


class Tile(NamedTuple):
    """One sampled image; `error` in the place of the picture where it can no longer be read."""

    key: str
    label: str
    said: str | None  # what the teacher takes it for, where that is not the label
    mass: float
    central: float  # NaN without evidence
    picture: str
    error: str


class Group(NamedTuple):
    """Some of the samples under a title, the most telling first."""

    title: str
    hint: str
    tiles: list[Tile]
    shown: int = FIRST

    @property
    def first(self) -> list[Tile]:
        """Those to be seen at once."""
        return self.tiles[: self.shown]

    @property
    def more(self) -> list[Tile]:
        """The others."""
        return self.tiles[self.shown :]


def sort_samples(joined: Join, samples: Samples) -> list[Group]:
    """Every sample in one group; groups without any are left out.

    Raises StoreMismatch for an image of another shape than its map's. One that cannot be read is a tile that says so,
    unless none can: OSError.
    """
    tiles = _tiles(joined, samples)
    if all(tile.error for tile in tiles):
        raise OSError(f"none of {len(tiles)} sampled images can be read; the first: {tiles[0].error}")
    order = np.argsort(-samples.mass, kind="stable")  # the most evidence first
    empty = samples.mass[order] <= 0
    other = np.array([tiles[at].said is not None for at in order], bool) & ~empty
    agreed = order[~empty & ~other]
    least = agreed[max(FIRST, len(agreed) - FIRST) :]
    between = agreed[FIRST : len(agreed) - len(least)]
    found = (
        (MOST, agreed[:FIRST], FIRST),
        (LEAST, least[::-1], FIRST),
        (OTHER, order[other][::-1], FIRST),
        (EMPTY, order[empty], FIRST),
        (BETWEEN, between, 0),
    )
    return [Group(*texts, [tiles[at] for at in chosen], shown) for texts, chosen, shown in found if len(chosen)]


def readable(groups: list[Group], joined: Join, samples: Samples) -> Ints:
    """Those of the sampled images that could be read."""
    failed = {tile.key for group in groups for tile in group.tiles if tile.error}
    return np.array([image for image in samples.image.tolist() if joined.images.keys[image] not in failed], np.int64)


def _tiles(joined: Join, samples: Samples) -> list[Tile]:
    predictions = joined.maps.predictions[samples.row].tolist()
    measured = zip(samples.image.tolist(), predictions, samples.mass.tolist(), samples.central.tolist(), strict=True)
    outputs, names = joined.maps.header.teacher_class, OutputNames(joined.maps.header)
    tiles = []
    for at, (image, said, mass, central) in enumerate(measured):
        label = int(joined.images.labels[image])
        agrees = said < 0 or len(outputs) == 0 or said == outputs[label]
        name, taken_for = str(joined.images.class_names[label]), None if agrees else names[said]
        tiles.append(Tile(joined.images.keys[image], name, taken_for, mass, central, *_picture(joined, samples, at)))
    return tiles


def _picture(joined: Join, samples: Samples, at: int) -> tuple[str, str]:
    """The overlay's address and no error, or no address and why."""
    image, row = int(samples.image[at]), int(samples.row[at])
    try:
        photograph, size = read_photograph(joined.images, image, SIDE_PX)
    except OSError as error:
        return "", str(error)
    check_size(joined.images.keys[image], size, joined.maps.sizes[row].tolist())
    return data_uri(overlay(photograph, samples.evidence[at], joined.maps.views([row])[0])), ""
