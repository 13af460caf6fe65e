"""Images in other people's containers: Hugging Face datasets (`hfds/NAME`) and WebDataset shards (`wds/FOLDER`)."""

from __future__ import annotations

import importlib.util
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from timm.data.readers.img_extensions import get_img_extensions
from timm.utils.misc import natural_key

from extract.errors import ImagesError
from extract.images.image_list import ImageList
from extract.images.tar import tar_members
from store.table_keys import names_or_numbers

Place = tuple[Path, int, int]  # file, offset, bytes


@dataclass(frozen=True)
class TableList(ImageList):
    """Images that lie in a container, each read by its row."""

    read: Callable[[int], bytes] = bytes

    def open(self, row: int) -> BinaryIO:
        """The encoded image in memory."""
        return io.BytesIO(self.read(row))


def list_hfds(name: str) -> TableList:
    """A dataset of Hugging Face's hub or of a local folder, through timm's reader: columns `image` and `label`.

    `name` may end in the split, `NAME:SPLIT`; default: `train`. Keys are the files' names or row numbers, see
    `names_or_numbers`. Raises ImagesError without the package `datasets` or for a dataset that it cannot load.
    """
    if importlib.util.find_spec("datasets") is None:
        raise ImagesError(f"hfds/{name}: expected the package datasets, found none; pip install tokenmix-maps[tables]")
    from timm.data.readers.reader_hfds import ReaderHfds

    path, _, split = name.partition(":")
    try:
        reader: Any = ReaderHfds(path, split=split or "train")
    except (OSError, ValueError) as error:
        raise ImagesError(
            f"hfds/{name}: expected a dataset with a split {split or 'train'!r}, found: {error}; check the name, and "
            "put another split behind it: hfds/NAME:SPLIT"
        ) from error
    table = reader.dataset
    keys = names_or_numbers(
        [path for part in table.data.column("image").chunks for path in part.field("path").to_pylist()]
    )
    labels = np.fromiter(reader.iter_targets(), np.int32, len(table))
    names = sorted(reader.class_to_idx, key=reader.class_to_idx.__getitem__)
    return TableList(Path(path), keys, labels, names, read=partial(_read_row, reader))


def _read_row(reader: Any, row: int) -> bytes:
    file, _ = reader[row]
    with file:
        raw: bytes = file.read()
    return raw


def list_wds(folder: str | Path) -> TableList:
    """WebDataset shards: every `.tar` of a folder, in natural order; the key is `__key__`, the label `.cls`.

    Raises ImagesError for a folder without shards, an image without a label, a key that comes twice.
    """
    folder, places, labels = Path(folder), dict[str, Place](), dict[str, int]()
    extensions = {extension.lstrip(".") for extension in get_img_extensions()}
    for tar_path in sorted(folder.glob("*.tar"), key=lambda path: natural_key(path.name)):
        for key, extension, place in _members(tar_path):
            if extension in extensions:
                if key in places:
                    raise ImagesError(f"{tar_path}: expected every key once, found {key!r} again; re-create the shards")
                places[key] = place
            elif extension == "cls":
                labels[key] = int(_read_place(place))
    without = [key for key in places if key not in labels]
    if not places or without:
        found = f"{len(without)} of {len(places)} images without .cls, such as {without[:1]}" if places else "no image"
        raise ImagesError(f"{folder}: expected WebDataset's .tar shards of images with .cls, found {found}; check them")
    numbers = np.array([labels[key] for key in places], np.int32)
    names = [str(label) for label in range(int(numbers.max()) + 1)]
    return TableList(folder, [*places], numbers, names, read=partial(_read_place_of, [*places.values()]))


def _members(path: Path) -> list[tuple[str, str, Place]]:
    """Key, extension and place of every file, cut as WebDataset cuts names: at the first dot."""
    found = []
    for member in tar_members(path):
        parent, slash, name = member.name.rpartition("/")
        stem, _, extension = name.partition(".")
        found.append((parent + slash + stem, extension.lower(), (path, member.offset_data, member.size)))
    return found


def _read_place_of(places: Sequence[Place], row: int) -> bytes:
    return _read_place(places[row])


def _read_place(place: Place) -> bytes:
    path, offset, nbytes = place
    with open(path, "rb") as tar:
        return os.pread(tar.fileno(), nbytes, offset)
