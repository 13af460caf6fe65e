"""Images in class folders, in timm's order: an image's class is the name of the folder that it lies in.

Keys come from here, below any retry loop: timm's dataset returns the *next* image for an unreadable one,
which here would be a wrong map under a right name.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from extract.errors import ImagesError
from extract.images.file_names import LeftOut, natural_order, refuse_tied_classes
from extract.images.image_list import ImageList

# Where a link leads nowhere; any other error is the file system's own.
_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class _Folder(NamedTuple):
    """One folder's content; names are keys, relative to the root, and `folders` are its subfolders."""

    key: str
    folders: list[str]
    images: list[str]
    dangling: list[str]  # links to nothing; those of them that have an image's name are also in `images`
    others: list[str]


def list_folder(root: Path, suffixes: Sequence[str]) -> tuple[ImageList, LeftOut]:
    """The images below a folder, and what else lies there.

    Links are followed. Those that lead nowhere are listed, as every dataset lists them, and have no image. Raises
    ImagesError for a folder that cannot be listed, a link back up, a link to nothing where a class folder may have
    been, no image but links to nothing, a class folder without images and classes whose order is not certain.
    """
    folders = list(_walk(root, suffixes))
    left_out = LeftOut(suffixes)
    for folder in folders:
        for name in folder.others:
            left_out.add(name)
    keys = sorted((key for folder in folders for key in folder.images), key=natural_order)
    dangling = frozenset(key for folder in folders for key in folder.dangling).intersection(keys)
    names = sorted({class_of(key) for key in keys}, key=natural_order)
    if keys:
        _refuse_all_dangling(root, keys, dangling)
        leaves = [folder.key for folder in folders if not (folder.folders or folder.images)]
        refuse_empty_classes(root, leaves, names, left_out)
        refuse_tied_classes(root, names)
    label_of = {name: label for label, name in enumerate(names)}
    labels = np.array([label_of[class_of(key)] for key in keys], np.int32)
    return ImageList(root, keys, labels, names, dangling=dangling), left_out


def class_of(key: str) -> str:
    """The name of the folder that the image lies in."""
    return key.rpartition("/")[0].rpartition("/")[2]


def _walk(root: Path, suffixes: Sequence[str]) -> Iterator[_Folder]:
    waiting = [""]
    while waiting:
        folder = _look_into(root, waiting.pop(), tuple(suffixes))
        waiting += folder.folders
        yield folder


def _look_into(root: Path, key: str, suffixes: tuple[str, ...]) -> _Folder:
    folder = _Folder(key, [], [], [], [])
    try:
        with os.scandir(root / key) as entries:
            for entry in entries:
                _sort_in(root, folder, entry, suffixes)
    except OSError as error:
        raise ImagesError(
            f"{error.filename or root / key}: expected a folder that can be listed, found {error.strerror}; without "
            "it the classes behind it would have other labels: check the mount and the permissions"
        ) from error
    if folder.dangling and not folder.images:
        raise ImagesError(
            f"{root}: expected class folders, found {min(folder.dangling)!r}, a link to nothing; as a class it would "
            "count: mend the link or remove it"
        )
    return folder


def _sort_in(root: Path, folder: _Folder, entry: os.DirEntry[str], suffixes: tuple[str, ...]) -> None:
    key = f"{folder.key}/{entry.name}".lstrip("/")
    is_image = os.path.splitext(entry.name)[1].lower() in suffixes
    if _leads_nowhere(entry):
        folder.dangling.append(key)
    elif entry.is_dir():
        _refuse_loop(root, folder.key, entry)
        folder.folders.append(key)
        return
    elif not entry.is_file():  # a pipe: opening it would wait for ever
        is_image = False
    (folder.images if is_image else folder.others).append(key)


def _leads_nowhere(entry: os.DirEntry[str]) -> bool:
    if not entry.is_symlink():
        return False
    try:
        entry.stat()
    except OSError as error:
        if error.errno not in _NOWHERE:
            raise
        return True
    return False


def _is_hidden(key: str) -> bool:
    return os.path.basename(key).startswith(".")


def _refuse_loop(root: Path, folder: str, entry: os.DirEntry[str]) -> None:
    """Folders above may be links themselves: two that link to each other lead back up by a detour."""
    if entry.is_symlink():
        above = os.path.realpath(entry.path)
        places = [root / folder, *(root / folder).parents][: len(Path(folder).parts) + 1]
        if any(os.path.commonpath([above, os.path.realpath(place)]) == above for place in places):
            raise ImagesError(
                f"{root}: expected class folders, and no links that lead back up, found {entry.path!r}; remove it"
            )


def _refuse_all_dangling(root: Path, keys: Sequence[str], dangling: frozenset[str]) -> None:
    if len(dangling) == len(keys):
        target = os.path.realpath(root / keys[0])
        raise ImagesError(
            f"{root}: expected images, found {len(keys)} links to nothing, such as {keys[0]!r}, which leads to "
            f"{target}; check the mount that they lead to"
        )


def refuse_empty_classes(root: Path, leaves: Iterable[str], names: Sequence[str], left_out: LeftOut) -> None:
    """Raise ImagesError for a folder of these, without images or folders, whose name is none of the classes'."""
    classes = set(names)
    empty = [key for key in leaves if os.path.basename(key) not in classes and not _is_hidden(key)]
    if empty:
        found = f"none, but {left_out}" if left_out else "none"
        raise ImagesError(
            f"{root / min(empty)}: expected images in every class folder, found {found}; where such a folder counts as "
            "a class, it would shift the labels of the classes behind it: remove it, or name the suffixes of its "
            "images with --input-key"
        )
