"""orientation_of: what Pillow says of the image as it decodes it, in every format that can say it."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from extract.images.orientation import orientation_of
from store.spec import UNKNOWN, UPRIGHT

PIXELS = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)


def encoded(format_: str, orientation: object, **options: Any) -> io.BytesIO:
    exif = Image.Exif()
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Make] = "camera"
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, format_, **{"exif": exif} | options)
    return buffer


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_is_found_before_and_after_decoding(format_: str, orientation: int) -> None:
    with Image.open(encoded(format_, orientation)) as image:
        assert orientation_of(image) == orientation
        image.load()
        assert orientation_of(image) == orientation


@pytest.mark.parametrize("orientation", [None, 0, 9, 255])
def test_none_that_is_valid(orientation: int | None) -> None:
    with Image.open(encoded("JPEG", orientation)) as image:
        assert orientation_of(image) == UPRIGHT


def test_xmp_where_there_is_no_exif() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    with Image.open(encoded("JPEG", None, exif=b"", xmp=xmp)) as image:
        assert orientation_of(image) == 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_is_turned_by_pillow_itself(orientation: int) -> None:
    with Image.open(encoded("TIFF", orientation)) as image:
        assert orientation_of(image) == UPRIGHT
        assert image.size == ((30, 20) if orientation < 5 else (20, 30))


@pytest.mark.parametrize("format_", ["JPEG", "PNG"])
@pytest.mark.parametrize("exif", [b"garbage, no TIFF", b"MM\0*\0\0\0\x08\0\1\x01\x12"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_damaged_exif_is_unknown(format_: str, exif: bytes) -> None:
    with Image.open(encoded(format_, None, exif=b"Exif\0\0" + exif)) as image:
        assert orientation_of(image) == UNKNOWN
        image.load()
