"""Images in the order of a store that exists: as they were listed, and those that came later behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from extract.errors import ImagesError
from extract.images.file_names import natural_order
from extract.images.image_list import ImageList
from store import Header, StoreMismatch, read_header
from store.folder.extension import read_keys, require_own_shards, stored_labels
from store.folder.files import present_shards
from store.format.rows import list_digest
from store.spec import HEADER_FILE, OPTIONAL_COLUMNS, Json

Earlier = tuple[tuple[int, str], ...]
ALL_COLUMNS = tuple(column.name for column in OPTIONAL_COLUMNS)


def columns_of(store: Path) -> tuple[str, ...]:
    """Optional columns of a store that is to be made or gone on with: those that it was begun with, or all."""
    return read_header(store).columns if (store / HEADER_FILE).exists() else ALL_COLUMNS


def in_stored_order(images: ImageList, store: Path, *, extend: bool = False) -> tuple[ImageList, Earlier]:
    """The images in the store's order, and `Header.earlier` for them; with `extend` one entry more for new images.

    Where there is no store, or one of other classes, the images stay as they are. Raises StoreMismatch, with
    examples, for images that are gone or have another label, and for new ones without `extend`; ImagesError for new
    ones while shards are missing: until then it is not known which are new.
    """
    if not (store / HEADER_FILE).exists():
        return images, ()
    header = read_header(store)
    if header.dataset["class_names"] != list(images.class_names):
        return images, header.earlier
    images = _respelled(images, str(header.dataset["digest"]))
    earlier_keys = read_keys(store, header) if header.earlier else []
    if earlier_keys:
        images = _put_first(images, earlier_keys)
    if images.digest == header.dataset["digest"]:
        return images, header.earlier
    labels = stored_labels(store, header)
    hint = _drop_extension_hint(store, images, earlier_keys)
    _refuse_lost(store, images, labels, hint)
    complete = len(present_shards(store, header)) == header.sharding.shards
    if not complete and extend:
        raise ImagesError(
            f"{store}: expected a complete store to extend, found {len(labels)} of {header.rows} rows; take the new "
            f"images away, finish it, and extend it then{hint}"
        )
    if not complete and hint:
        raise StoreMismatch(
            f"{store}: dataset.digest: stored {header.dataset['digest']}, given {images.digest}: expected the images "
            f"of its last extension, which is not complete, found others; give those{hint}"
        )
    new = [key for key in images.keys if key not in labels]
    if complete and not new and _differ_in_ties(images.keys, list(labels)):
        return _put_first(images, list(labels)), header.earlier
    if not (complete and new):  # another order, or some images replaced: the header's comparison refuses it
        return images, header.earlier
    if not extend:
        raise StoreMismatch(
            f"{store}: dataset.digest: stored {header.dataset['digest']}, given {images.digest}: expected "
            f"the {header.rows} images of the store, found {len(new)} new ones: {_examples(new)}; add shards for them "
            "with --extend, or give the stored list"
        )
    return _put_first(images, list(labels)), (*header.earlier, (header.rows, str(header.dataset["digest"])))


def _respelled(images: ImageList, digest: str) -> ImageList:
    """With `./` before every key where the stored list has it: earlier versions left it as a tar has it."""
    keys = [f"./{key}" for key in images.keys]
    if type(images) is not ImageList or images.digest == digest or list_digest(keys, images.labels) != digest:
        return images
    members = {f"./{key}": place for key, place in images.members.items()}
    return replace(images, keys=keys, members=members, dangling=frozenset(f"./{key}" for key in images.dangling))


def stored_dataset(store: str | Path | None) -> Mapping[str, Json]:
    """`dataset` of the store's header, which says by what its images were listed; empty where there is no store."""
    if store is None or not (Path(store) / HEADER_FILE).exists():
        return {}
    return read_header(store).dataset


def require_same(store: Path, header: Header) -> None:
    """Raise StoreMismatch unless `header` is the store's own, or that with one extension more."""
    stored = read_header(store)
    grown = len(header.earlier) > len(stored.earlier)
    stored.require(header.before(-1) if grown else header, store)
    if grown:
        require_own_shards(store, header)


def _differ_in_ties(keys: Sequence[str], stored: Sequence[str]) -> bool:
    """Whether both are timm's order of the same images: earlier versions left 1.jpg and 01.jpg as they were found."""
    return all(natural_order(one)[0] == natural_order(other)[0] for one, other in zip(keys, stored, strict=True))


def _drop_extension_hint(store: Path, images: ImageList, earlier_keys: Sequence[str]) -> str:
    """What else can be done where the images from before the last extension are all here, and it has others."""
    if not earlier_keys or not set(earlier_keys) <= set(images.keys):
        return ""
    return f"; or take the last extension back with `tokenmix drop-extension {store}` and --extend again"


def _refuse_lost(store: Path, images: ImageList, stored: dict[str, int], hint: str) -> None:
    given = dict(zip(images.keys, images.labels.tolist(), strict=True))
    gone = [key for key in stored if key not in given]
    other = [
        f"{key!r} (stored {label}, given {given[key]})"
        for key, label in stored.items()
        if given.get(key, label) != label
    ]
    if gone or other:
        what = [f"{len(gone)} are gone: {_examples(gone)}"] if gone else []
        what += [f"{len(other)} have another label: {', '.join(other[:3])}"] if other else []
        raise StoreMismatch(
            f"{store}: dataset.digest: expected the {len(stored)} images of its shards with their labels, found that "
            f"{' and '.join(what)}; give the stored list, or another path to start a new store{hint}"
        )


def _put_first(images: ImageList, keys: Sequence[str]) -> ImageList:
    """These keys in this order, and the rest as listed."""
    place = {key: number for number, key in enumerate(keys)}
    order = sorted(range(len(images)), key=lambda row: place.get(images.keys[row], len(place)))
    if order == list(range(len(images))):
        return images
    if type(images) is not ImageList:
        raise ImagesError(f"{images.root}: expected the rows of the store first and new ones behind, found them mixed")
    return replace(images, keys=[images.keys[row] for row in order], labels=images.labels[np.array(order)])


def _examples(keys: Sequence[str]) -> str:
    return ", ".join(map(repr, keys[:3])) + (", ..." if len(keys) > 3 else "")
