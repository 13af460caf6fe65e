"""Listing images in timm's order: natural sort, and an image's class is the name of the folder that it lies in.

Keys come from here, below any retry loop: timm's dataset returns the *next* image for an unreadable one,
which here would be a wrong map under a right name.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from timm.data.readers.img_extensions import get_img_extensions
from timm.data.readers.reader_image_folder import find_images_and_targets

from extract.errors import ImagesError
from extract.images.image_list import ImageList
from extract.images.table_names import split_scheme
from extract.images.tables import list_hfds, list_wds
from extract.images.tar import list_tar


def list_images(root: str | Path) -> ImageList:
    """List a class folder or a `.tar` of one; labels count the classes in timm's order of their names.

    `hfds/NAME:SPLIT` is a Hugging Face dataset, `wds/FOLDER` a folder of WebDataset shards: extract/images/tables.py.

    Raises ImagesError: nothing there, no image, images outside any class folder, a class folder without images, which
    other datasets would count, two folders of one name, a name that is not UTF-8, the same name twice in a tar.
    """
    root = Path(root)
    if container := split_scheme(root):
        scheme, name = container
        return list_hfds(name) if scheme == "hfds" else list_wds(name)
    if root.is_dir():
        found = _list_folder(root)
    elif root.is_file() and root.suffix == ".tar":
        found = list_tar(root)
    else:
        what = "a file that is no .tar" if root.exists() else "nothing"
        raise ImagesError(f"{root}: expected a class folder or a .tar of one, found {what}; check the path")
    if not found.keys:
        extensions = ", ".join(get_img_extensions())
        raise ImagesError(
            f"{root}: expected images ({extensions}) in class folders, found none; give the folder whose "
            "subfolders are the classes"
        )
    _check_names(root, found.keys)
    _check_folders(root, found.keys)
    return found


def refuse_store_inside(store: Path, images: Path) -> None:
    """Raise ImagesError for a store below the image folder: at the next listing it would be a class without images."""
    if images.resolve() in (store.resolve(), *store.resolve().parents):
        raise ImagesError(f"{store}: expected a store outside of the images' folder {images}; give another path")


def _list_folder(root: Path) -> ImageList:
    samples, class_to_idx = find_images_and_targets(str(root))
    keys = [os.path.relpath(path, root).replace(os.sep, "/") for path, _ in samples]
    if keys:
        _check_leaf_folders(root, class_to_idx)
    names = sorted(class_to_idx, key=class_to_idx.__getitem__)
    return ImageList(root, keys, np.array([label for _, label in samples], np.int32), names)


def _check_leaf_folders(root: Path, class_to_idx: dict[str, int]) -> None:
    for folder, subfolders, _ in os.walk(root, followlinks=True):
        name = os.path.basename(folder)
        if not subfolders and name not in class_to_idx and not name.startswith("."):
            raise ImagesError(
                f"{folder}: expected images in every class folder, found none; where such a folder counts as a class, "
                "it would shift the labels of the classes behind it: remove it"
            )


def _check_folders(root: Path, keys: Sequence[str]) -> None:
    """Every image lies in a class folder, and no two folders have one name: timm would make them one class."""
    places: dict[str, str] = {}
    for folder in dict.fromkeys(os.path.dirname(key) for key in keys):
        name = os.path.basename(folder)
        if not name:
            stray = next(key for key in keys if os.path.dirname(key) == folder)
            raise ImagesError(
                f"{root}: expected images in class folders only, found {stray!r} outside any; move it into one"
            )
        other = places.setdefault(name, folder)
        if other != folder:
            raise ImagesError(
                f"{root}: expected one folder per class, found {other!r} and {folder!r}; give the folder whose "
                "subfolders are the classes, and no links that lead back up"
            )


def _check_names(root: Path, keys: Sequence[str]) -> None:
    for key in keys:
        try:
            key.encode("utf-8")
        except UnicodeEncodeError:
            raise ImagesError(f"{root}: expected UTF-8 file names, found {os.fsencode(key)!r}; rename it") from None
