"""One call for every place that images come from: a class folder, a `.tar` of one, or a table."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from extract.errors import ImagesError
from extract.images.file_names import FIRST_SUFFIXES, IMAGE_SUFFIXES, LeftOut, parse_suffixes, spell_suffixes
from extract.images.folder import list_folder
from extract.images.image_list import ImageList
from extract.images.stored_order import stored_dataset
from extract.images.table_names import split_scheme
from extract.images.tables.hfds import list_hfds
from extract.images.tables.wds import list_wds
from extract.images.tar import list_tar, refuse_packed
from store.spec import HEADER_FILE, Json


def _silent(_: str) -> None:
    """The default of `say`."""


def list_images(
    root: str | Path,
    *,
    input_key: str | None = None,
    target_key: str | None = None,
    store: str | Path | None = None,
    say: Callable[[str], None] = _silent,
) -> ImageList:
    """List a class folder or a `.tar` of one; labels count the classes in timm's order of their names.

    `hfds/NAME:SPLIT` is a Hugging Face dataset, `wds/FOLDER` a folder of WebDataset shards: extract/images/tables/.
    `input_key`, `target_key`: as timm's, the column of the images and that of the labels; of files, `jpg;png`, the
    suffixes of images; default, where there is a `store`: those that its images were listed by. `say` gets a line on
    what is left out.

    Raises ImagesError: nothing there, no image, images outside any class folder, a class folder without images, which
    other datasets would count, two folders of one name, classes that tie in timm's order, a name that is not UTF-8, the
    same name twice in a tar, labels that are no class indices.
    """
    root, stored = Path(root), stored_dataset(store)
    scheme, name = split_scheme(root) or ("", str(root))
    target_key = target_key or _text(stored, "target_key")
    if scheme == "hfds":
        return list_hfds(name, input_key or _text(stored, "input_key"), target_key)
    if scheme == "wds":
        input_key = input_key or _text(stored, "input_key")
    suffixes, preferred = _suffixes(input_key, stored)
    found: ImageList
    if scheme == "wds":
        found, left_out = list_wds(name, suffixes, target_key, preferred=preferred)
    else:
        found, left_out = _list_files(root, suffixes, target_key)
    for line in (left_out.line(), _mac_files(found.keys), "" if scheme else _hidden_classes(found)):
        if line:
            say(f"{root}: {line}")
    return found


def refuse_store_inside(store: Path, images: Path, what: str = "a store") -> None:
    """Raise ImagesError for a folder below that of images: at the next listing it would be a class without images.

    `what`: the folder is, if not a store.
    """
    if images.resolve() in (store.resolve(), *store.resolve().parents):
        raise ImagesError(f"{store}: expected {what} outside of the images' folder {images}; give another path")


def _text(stored: Mapping[str, Json], name: str) -> str | None:
    return str(stored[name]) if name in stored else None


def _suffixes(given: str | None, stored: Mapping[str, Json]) -> tuple[tuple[str, ...], bool]:
    """Of images, as the user gave them or as the store's were, and whether the order in which they stand was chosen."""
    if given:
        return parse_suffixes(given), True
    if stored:
        return parse_suffixes(_text(stored, "suffixes") or spell_suffixes(FIRST_SUFFIXES)), False
    return IMAGE_SUFFIXES, False


def _list_files(root: Path, suffixes: Sequence[str], target_key: str | None) -> tuple[ImageList, LeftOut]:
    if target_key:
        raise ImagesError(
            f"{root}: expected --target-key with hfds/ or wds/ only, found {target_key!r}; here the folder is the class"
        )
    if root.is_dir():
        found, left_out = list_folder(root, suffixes)
    elif root.is_file():
        refuse_packed(root)
        if root.suffix.lower() != ".tar":
            raise _no_images_place(root, "a file that is no .tar")
        found, left_out = list_tar(root, suffixes)
    else:
        raise _no_images_place(root, "nothing")
    if not found.keys and (root / HEADER_FILE).is_file():
        raise ImagesError(f"{root}: expected images, found a store of maps; IMAGES stands before STORE")
    if not found.keys:
        raise ImagesError(
            f"{root}: expected images ({spell_suffixes(suffixes)}) in class folders, found {left_out}; give "
            "the folder whose subfolders are the classes, or name other suffixes with --input-key"
        )
    _check_names(root, found.keys)
    _check_folders(root, found.keys)
    return replace(found, listed_by={"suffixes": spell_suffixes(suffixes)}), left_out


def _no_images_place(root: Path, found: str) -> ImagesError:
    return ImagesError(f"{root}: expected a class folder or a .tar of one, found {found}; check the path")


def _mac_files(keys: Sequence[str]) -> str:
    """A line on files that macOS leaves beside others on foreign file systems, whose names are those of images."""
    found = [key for key in keys if key.rpartition("/")[2].startswith("._")]
    if not found:
        return ""
    return (
        f"{len(found)} files such as {found[0]!r} are macOS's own and no images, though every dataset lists them: "
        "delete them (`find IMAGES -name '._*' -delete`), or let them be unreadable images with --max-errors"
    )


def _hidden_classes(found: ImageList) -> str:
    """A line on folders that programs hide, such as .ipynb_checkpoints, and that every dataset takes for classes."""
    hidden = [name for name in found.class_names if name.startswith(".")]
    if not hidden:
        return ""
    return (
        f"{', '.join(map(repr, hidden[:3]))} of {len(found.class_names)} classes are hidden folders, which every "
        "dataset takes for classes too: if they are none, remove them before any training, for other labels change then"
    )


def _check_folders(root: Path, keys: Sequence[str]) -> None:
    """Every image lies in a class folder, and no two folders have one name: timm would make them one class."""
    places: dict[str, str] = {}
    folders = Counter(os.path.dirname(key) for key in keys)
    for folder in folders:
        name = os.path.basename(folder)
        if name in ("", "."):
            raise _outside_of_classes(root, keys, folders)
        other = places.setdefault(name, folder)
        if other != folder:
            both = f"{root}: expected one folder per class, found {other!r} and {folder!r}"
            if "__MACOSX" in (*other.split("/"), *folder.split("/")):
                raise ImagesError(f"{both}; delete __MACOSX, in which macOS packs no images, only what belongs to them")
            raise ImagesError(
                f"{both}; give the folder whose subfolders are the classes, and no links that lead back up: as in "
                "timm, the class is the folder that an image lies in itself"
            )


def _outside_of_classes(root: Path, keys: Sequence[str], folders: Mapping[str, int]) -> ImagesError:
    outside = [key for key in keys if os.path.basename(os.path.dirname(key)) in ("", ".")]
    beside = f"beside {len(folders) - 1} class folders" if len(folders) > 1 else "and no class folders"
    return ImagesError(
        f"{root}: expected images in class folders, whose names are their classes, found {len(outside)} directly in it "
        f"{beside}, such as {outside[0]!r}; move them into one folder per class, or, where no classes are needed "
        "(--kind activation), into one folder for all"
    )


def _check_names(root: Path, keys: Sequence[str]) -> None:
    for key in keys:
        try:
            key.encode("utf-8")
        except UnicodeEncodeError:
            raise _no_utf8(root, os.fsencode(key)) from None


def _no_utf8(root: Path, name: bytes) -> ImagesError:
    try:
        name.decode("utf-8")
        remedy = "which is UTF-8, but this Python reads names in another encoding: set PYTHONUTF8=1"
    except UnicodeDecodeError:
        remedy = "rename it"
    return ImagesError(f"{root}: expected UTF-8 file names, found {name!r}; {remedy}")
