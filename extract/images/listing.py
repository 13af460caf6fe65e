"""The ordered list of images: a class folder or a tar of one, as timm labels and sorts them.

Keys come from here, below any retry loop: timm's dataset returns the *next* image for an unreadable one,
which here would be a wrong map under a right name.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from timm.data.readers.class_map import load_class_map
from timm.data.readers.img_extensions import get_img_extensions
from timm.data.readers.reader_image_folder import find_images_and_targets
from timm.utils.misc import natural_key

from extract.errors import ImagesError
from extract.images.table_names import split_scheme
from store.format.header import Json
from store.format.rows import list_digest


@dataclass(frozen=True)
class ImageList:
    """N images in a fixed order. `open` may be called from any thread or forked worker."""

    root: Path
    keys: Sequence[str]
    labels: npt.NDArray[np.int32]
    class_names: Sequence[str]
    members: Mapping[str, tuple[int, int]] = field(default_factory=dict, repr=False)  # tar: key -> offset, bytes

    def __len__(self) -> int:
        return len(self.keys)

    def open(self, row: int) -> BinaryIO:
        """The encoded image as a file; raises OSError where the file system does."""
        key = self.keys[row]
        if not self.members:
            return open(self.root / key, "rb")
        offset, nbytes = self.members[key]
        with open(self.root, "rb") as tar:  # pread on a descriptor of our own: nothing shared between workers
            return io.BytesIO(os.pread(tar.fileno(), nbytes, offset))

    def header(self) -> dict[str, Json]:
        """The `dataset` field of the store's header."""
        return {
            "root_name": self.root.resolve().name,
            "class_names": list(self.class_names),
            "teacher_class": list(range(len(self.class_names))),
            "digest": self.digest,
        }

    @cached_property
    def digest(self) -> str:
        """Of the ordered list of (key, label)."""
        return list_digest(self.keys, self.labels)


def list_images(root: str | Path, class_map: str | Path | None = None) -> ImageList:
    """List a class folder or a `.tar` in timm's order (natural sort; the class is the image's folder name).

    `hfds/NAME:SPLIT` is a Hugging Face dataset, `wds/FOLDER` a folder of WebDataset shards; see `extract.tables`.

    `class_map`: text file with one folder name per line; the line number is the class index. Without it the
    sorted folder names are the classes, so a folder without images would shift every later label: refused.

    Raises ImagesError: nothing there, no image, images outside any class folder, a class folder without images,
    a folder that the class map lacks, two folders of one name, a name that is not UTF-8, the same name twice in a tar.
    """
    root = Path(root)
    if container := split_scheme(root):
        return _list_table(*container, class_map=class_map)
    classes = _read_class_map(class_map)
    if root.is_dir():
        found, class_to_idx = _list_folder(root, classes)
        members: dict[str, tuple[int, int]] = {}
    elif root.is_file() and root.suffix == ".tar":
        found, class_to_idx, members = _list_tar(root, classes)
    else:
        what = "a file that is no .tar" if root.exists() else "nothing"
        raise ImagesError(f"{root}: expected a class folder or a .tar of one, found {what}; check the path")
    if not found:
        extensions = ", ".join(get_img_extensions())
        raise ImagesError(
            f"{root}: expected images ({extensions}) in class folders, found none; give the folder whose "
            "subfolders are the classes"
        )
    keys = [key for key, _ in found]
    _check_names(root, keys)
    _check_places(root, keys)
    names = sorted(class_to_idx, key=class_to_idx.__getitem__)
    return ImageList(root, keys, np.array([label for _, label in found], np.int32), names, members)


def _list_table(scheme: str, name: str, class_map: str | Path | None) -> ImageList:
    from extract.images.tables import list_hfds, list_wds  # needs what is above

    if class_map is not None:
        raise ImagesError(f"{scheme}/{name}: expected no class map, found {class_map}; labels are its own")
    return list_hfds(name) if scheme == "hfds" else list_wds(name)


def refuse_store_inside(store: Path, images: Path) -> None:
    """Raise ImagesError for a store below the image folder: at the next listing it would be a class without images."""
    if images.resolve() in (store.resolve(), *store.resolve().parents):
        raise ImagesError(f"{store}: expected a store outside of the images' folder {images}; give another path")


def _read_class_map(path: str | Path | None) -> dict[str, int] | None:
    if path is None:
        return None
    path = Path(path)
    if path.suffix != ".txt" or not path.is_file():
        raise ImagesError(f"{path}: expected a .txt class map, one folder name per line, found no such file")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ImagesError(f"{path}: expected a text in UTF-8, found {error}; save it as such") from error
    if lines and lines[0].startswith("\ufeff"):
        raise ImagesError(
            f"{path}: expected UTF-8 without a byte order mark, found one, which timm takes for a part of the first "
            "name; save it without"
        )
    classes: dict[str, int] = load_class_map(str(path))
    if len(classes) != len(lines) or "" in classes:
        raise ImagesError(
            f"{path}: expected a different folder name on each of {len(lines)} lines, found empty or repeated "
            "ones; the line number is the class index"
        )
    return classes


def _list_folder(root: Path, classes: dict[str, int] | None) -> tuple[list[tuple[str, int]], dict[str, int]]:
    samples, class_to_idx = find_images_and_targets(str(root))
    found = [(os.path.relpath(path, root).replace(os.sep, "/"), label) for path, label in samples]
    if found and classes is None:
        _check_leaf_folders(root, class_to_idx)
    return _relabel(root, found, classes), classes or class_to_idx


def _list_tar(
    root: Path, classes: dict[str, int] | None
) -> tuple[list[tuple[str, int]], dict[str, int], dict[str, tuple[int, int]]]:
    extensions = get_img_extensions(as_set=True)
    try:
        with tarfile.open(root, "r:") as tar:
            files = [m for m in tar if m.isfile() and Path(m.name).suffix.lower() in extensions]
    except tarfile.TarError as error:
        raise ImagesError(f"{root}: expected an uncompressed tar, found: {error}; unpack or re-create it") from error
    repeated = [name for name, count in Counter(m.name for m in files).items() if count > 1]
    if repeated:
        raise ImagesError(f"{root}: expected every name once, found {repeated[0]!r} again; re-create the tar")
    files.sort(key=lambda m: natural_key(m.name))
    folders = [os.path.basename(os.path.dirname(m.name)) for m in files]
    class_to_idx = {name: i for i, name in enumerate(sorted(set(folders), key=natural_key))}
    found = [(m.name, class_to_idx[folder]) for m, folder in zip(files, folders, strict=True)]
    members = {m.name: (m.offset_data, m.size) for m in files}
    return _relabel(root, found, classes), classes or class_to_idx, members


def _relabel(root: Path, found: list[tuple[str, int]], classes: dict[str, int] | None) -> list[tuple[str, int]]:
    """Labels by the class map, if there is one; every image must lie in a named class folder."""
    relabelled = []
    for key, label in found:
        folder = os.path.basename(os.path.dirname(key))
        if not folder:
            raise ImagesError(
                f"{root}: expected images in class folders only, found {key!r} outside any; move it into one"
            )
        if classes is not None and folder not in classes:
            raise ImagesError(
                f"{root}: expected only folders of the class map, found {folder!r} ({key!r}); add it or move it away"
            )
        relabelled.append((key, label if classes is None else classes[folder]))
    return relabelled


def _check_leaf_folders(root: Path, class_to_idx: dict[str, int]) -> None:
    for folder, subfolders, _ in os.walk(root, followlinks=True):
        name = os.path.basename(folder)
        if not subfolders and name not in class_to_idx and not name.startswith("."):
            raise ImagesError(
                f"{folder}: expected images in every class folder, found none; it would shift the labels of the "
                "classes behind it: remove it, or fix the class indices with --class-map"
            )


def _check_places(root: Path, keys: Sequence[str]) -> None:
    """timm's class is the name of the image's own folder: two folders of one name would silently become one class."""
    places: dict[str, str] = {}
    for folder in dict.fromkeys(os.path.dirname(key) for key in keys):
        other = places.setdefault(os.path.basename(folder), folder)
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
