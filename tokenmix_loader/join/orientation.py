"""Whether a loader turned an image as EXIF says, so that each map lies over the pixels that it was made from.

Maps are in the coordinates of an image as Pillow decodes it. A camera that is held upright writes its pixels lying
down and says in the file (EXIF, `orientation`, 1 to 8) how to turn them: Pillow, torchvision and timm let them lie;
OpenCV, Hugging Face's Image column and `ImageOps.exif_transpose` turn or mirror them. Only the pixels show for
certain what a loader did: some turn and leave the tag, some turn JPEGs and not AVIFs. Few images have such a tag; for
those, what was loaded is compared with the file.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from tokenmix_loader.join.rows import same_shape
from tokenmix_loader.store_access import MAX_ORIENTATION, UNKNOWN, UPRIGHT, MapStore, StoreMismatch
from tokenmix_loader.tracing.affine import FLIP_X, FLIP_Y, IDENTITY, QUARTER_TURNS, Affine, Bounds, clip, compose

Open = Callable[[], BinaryIO]
Method = Image.Transpose
Floats = npt.NDArray[np.float32]

# EXIF's number: what turns the decoded image, and where the turned image's unit square lies in the decoded one's.
TURNS: dict[int, tuple[Method | None, Affine]] = {
    1: (None, IDENTITY),
    2: (Method.FLIP_LEFT_RIGHT, FLIP_X),
    3: (Method.ROTATE_180, QUARTER_TURNS[2]),
    4: (Method.FLIP_TOP_BOTTOM, FLIP_Y),
    5: (Method.TRANSPOSE, (0.0, 1.0, 0.0, 1.0, 0.0, 0.0)),
    6: (Method.ROTATE_270, QUARTER_TURNS[3]),
    7: (Method.TRANSVERSE, (0.0, -1.0, 1.0, -1.0, 0.0, 1.0)),
    8: (Method.ROTATE_90, QUARTER_TURNS[1]),
}
FIRST_QUARTER_TURN = 5  # from here on, width and height change places
SIDE_PX = 32  # images are compared at this size, squashed
LEAST_LIKENESS = 0.8  # correlation of an image with its file, which may have been scaled, compressed or made grey
FLAT = 1.0  # norm up to which an image is of one colour, but for rounding


def turn_applied(
    key: str, loaded: Image.Image, size: Sequence[int], orientation: int, open_file: Open | None = None
) -> int:
    """How the loader turned an image, as EXIF's number: 1 where it did not.

    `size`: (width, height) in px at extraction; `orientation`: EXIF's, 1 to 8, 0 where the store does not know it;
    `open_file`: opens the encoded image, where it can be reached. Raises StoreMismatch where it cannot be decided.
    """
    if open_file is None:
        return _turn_without_file(key, loaded, size, orientation or orientation_of(loaded) or UPRIGHT)
    if orientation == UPRIGHT:
        return UPRIGHT
    with open_file() as file:
        if orientation == UNKNOWN and is_upright(file):
            return UPRIGHT
        file.seek(0)
        return _turn_by_pixels(key, loaded, size, file)


def upright_size(size: Sequence[int], turn: int) -> tuple[int, int]:
    """Width and height of the image before it was turned."""
    width, height = size
    return (height, width) if turn >= FIRST_QUARTER_TURN else (width, height)


def turned_back(place: npt.NDArray[np.float64], turn: int) -> npt.NDArray[np.float64]:
    """Affine and bounds [10] in the image as it was decoded, from those in the image that the loader turned."""
    affine, bounds = tuple(place[:6].tolist()), tuple(place[6:].tolist())
    return np.array(compose(TURNS[turn][1], affine) + _boxed(TURNS[turn][1], bounds))


def orientation_of(image: Image.Image) -> int:
    """EXIF's or XMP's orientation that an image carries, 1 to 8; 0 where there is none, or a damaged one."""
    try:
        found: Any = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow raises many types for damaged EXIF, and the image itself may be sound
        return UNKNOWN
    return int(found) if found in range(UPRIGHT, MAX_ORIENTATION + 1) else UNKNOWN


def is_upright(file: BinaryIO) -> bool:
    """Whether the encoded image says nothing that a loader could turn it by; of its bytes few are read."""
    if not _may_have_tag(file):
        return True
    file.seek(0)
    with Image.open(file) as encoded, warnings.catch_warnings():
        warnings.simplefilter("error")
        try:  # read again: of EXIF that it read on opening, Pillow does not say that it was damaged
            Image.Exif().load(encoded.info.get("exif", b""))
            return encoded.getexif().get(ExifTags.Base.Orientation, UPRIGHT) not in range(2, MAX_ORIENTATION + 1)
        except Exception:  # damaged EXIF, of which each library makes something else
            return False


def _may_have_tag(file: BinaryIO) -> bool:
    """Whether there is a block for EXIF or XMP; True for formats that only Pillow can read.

    Pillow itself decodes a PNG to know, and takes a tenth of the time of a small JPEG.
    """
    start = file.read(21)
    if start.startswith(b"\xff\xd8"):
        return _jpeg_may_have_tag(file)
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png_may_have_tag(file)
    if start[8:12] == b"WEBP":
        return start[12:16] == b"VP8X" and bool(start[20] & 0b1100)  # its flags of EXIF and XMP
    return True


def _jpeg_may_have_tag(file: BinaryIO) -> bool:
    """Whether an APP1 comes before the pixels; where the markers cannot be followed, perhaps."""
    file.seek(2)
    while True:
        marker = file.read(4)
        if len(marker) < 4 or marker[0] != 0xFF or marker[1] in (0xE1, 0xFF):
            return True
        if marker[1] == 0xDA:
            return False
        file.seek(int.from_bytes(marker[2:], "big") - 2, os.SEEK_CUR)


def _png_may_have_tag(file: BinaryIO) -> bool:
    """Whether a chunk is EXIF, or a text of ImageMagick's or Adobe's that may be."""
    file.seek(8)
    while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
        nbytes = int.from_bytes(head[:4], "big")
        if head[4:] == b"eXIf":
            return True
        if head[5:] in (b"TXt", b"EXt"):
            name = file.read(min(nbytes, 16))
            if name in (b"Raw profile type", b"XML:com.adobe.xm"):
                return True
            nbytes -= len(name)
        file.seek(nbytes + 4, os.SEEK_CUR)
    return False


def warn_of_unknown_orientations(store: MapStore, images: int, *, stacklevel: int) -> None:
    """Warn that nothing is known of this many images but the tags that they may have kept."""
    warnings.warn(
        f"{store}: expected the EXIF orientation of every image, found none for {images}, as in stores that were "
        "begun before it was stored; a loader that turns or mirrors images by it may go unnoticed: load them without "
        "EXIF rotation, where `keys` are given pass `root`, the folder that they are relative to, or extract the maps "
        "anew",
        stacklevel=stacklevel,
    )


def _boxed(move: Affine, box: Sequence[float]) -> Bounds:
    """The box that `move`, which turns or mirrors the unit square, makes of a box."""
    x0, y0, x1, y1 = box
    return clip((-np.inf, -np.inf, np.inf, np.inf), compose(move, (x1 - x0, 0.0, x0, 0.0, y1 - y0, y0)))


def _turn_without_file(key: str, loaded: Image.Image, size: Sequence[int], orientation: int) -> int:
    """By the shape where that decides; otherwise by the tag, which most loaders remove when they turn an image."""
    has_tag = orientation_of(loaded) == orientation
    fits_upright, fits_turned = (same_shape(upright_size(loaded.size, turn), size) for turn in (UPRIGHT, orientation))
    if fits_turned and not fits_upright:
        if has_tag:
            raise _undecided(key, orientation, "an image that is turned and still has the tag")
        return orientation
    if orientation == UPRIGHT or has_tag or not fits_turned:
        return UPRIGHT
    raise _undecided(key, orientation, "neither the tag nor a file to compare the image with")


def _turn_by_pixels(key: str, loaded: Image.Image, size: Sequence[int], file: BinaryIO) -> int:
    """The turn after which the file shows what was loaded; of several that fit, as of symmetric images, the first."""
    with Image.open(file) as encoded:
        orientation = orientation_of(encoded)
        encoded.draft("RGB", (SIDE_PX, SIDE_PX))  # a JPEG is decoded at an eighth of its size
        small = _small(encoded)
    found = _contrast(_small(loaded))
    turns = [turn for turn in TURNS if same_shape(upright_size(loaded.size, turn), size)]
    likeness = {turn: _likeness(_contrast(_turned(small, turn)), found) for turn in turns}
    if not turns:
        return UPRIGHT
    best = max(turns, key=likeness.__getitem__)
    if likeness[best] < LEAST_LIKENESS:
        raise _undecided(key, orientation, "pixels that show the file's image in none of the eight orientations")
    return best


def _small(image: Image.Image) -> Image.Image:
    return image.convert("RGB").resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX)


def _turned(image: Image.Image, turn: int) -> Image.Image:
    method = TURNS[turn][0]
    return image if method is None else image.transpose(method)


def _contrast(image: Image.Image) -> Floats:
    pixels: Floats = np.asarray(image, np.float32)
    pixels -= pixels.mean(axis=(0, 1))
    return pixels


def _likeness(one: Floats, other: Floats) -> float:
    """Correlation, rounded so that equal ones are equal; 1 for two images of one colour."""
    norms = float(np.linalg.norm(one)), float(np.linalg.norm(other))
    if max(norms) < FLAT:
        return 1.0
    return round(float((one * other).sum()) / (norms[0] * norms[1] or 1.0), 5)


def _undecided(key: str, orientation: int, found: str) -> StoreMismatch:
    return StoreMismatch(
        f"{key!r}: expected to see whether the loader turned this image by its EXIF orientation {orientation}, found "
        f"{found}; load images as Pillow decodes them, without EXIF rotation, or, where `keys` are given, pass `root`, "
        "the folder that they are relative to"
    )
