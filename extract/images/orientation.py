"""How an image is to be turned for viewing: many loaders do that, and training by timm or torchvision does not."""

from __future__ import annotations

from PIL import ExifTags, Image

from store.spec import MAX_ORIENTATION, UNKNOWN, UPRIGHT


def orientation_of(image: Image.Image) -> int:
    """EXIF's orientation of the pixels as Pillow decodes them, 1 to 8; 0 where its EXIF is damaged.

    Of EXIF or XMP, whatever the file's format. To be called after the image was decoded, which costs microseconds;
    before that Pillow may have to decode a PNG for it.
    """
    if image.format == "TIFF":  # of these alone Pillow turns the pixels itself
        return UPRIGHT
    try:
        exif = image.getexif()
    except Exception:  # Pillow raises many types for damaged EXIF, and the image itself may be sound
        return UNKNOWN
    if not exif and image.info.get("exif"):  # or finds nothing in it, where another library may
        return UNKNOWN
    found = exif.get(ExifTags.Base.Orientation, UPRIGHT)
    return int(found) if found in range(UPRIGHT, MAX_ORIENTATION + 1) else UPRIGHT
