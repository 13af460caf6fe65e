"""Files in an uncompressed tar, by name and by where their bytes lie."""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
from timm.data.readers.img_extensions import get_img_extensions
from timm.utils.misc import natural_key

from extract.errors import ImagesError
from extract.images.image_list import ImageList


def list_tar(root: Path) -> ImageList:
    """The images of a packed class folder, as if it were unpacked; ImagesError for a name that comes twice."""
    extensions = get_img_extensions(as_set=True)
    files = [member for member in tar_members(root) if Path(member.name).suffix.lower() in extensions]
    repeated = [name for name, count in Counter(member.name for member in files).items() if count > 1]
    if repeated:
        raise ImagesError(f"{root}: expected every name once, found {repeated[0]!r} again; re-create the tar")
    files.sort(key=lambda member: natural_key(member.name))
    folders = [os.path.basename(os.path.dirname(member.name)) for member in files]
    names = sorted(set(folders), key=natural_key)
    label_of = {name: label for label, name in enumerate(names)}
    members = {member.name: (member.offset_data, member.size) for member in files}
    return ImageList(root, [*members], np.array([label_of[folder] for folder in folders], np.int32), names, members)


def tar_members(path: Path) -> list[tarfile.TarInfo]:
    """The plain files in a tar; ImagesError for a compressed or damaged one."""
    try:
        with tarfile.open(path, "r:") as tar:
            return [member for member in tar if member.isfile()]
    except tarfile.TarError as error:
        raise ImagesError(f"{path}: expected an uncompressed tar, found: {error}; unpack or re-create it") from error
