"""Images in Hugging Face's datasets: `hfds/NAME` or `hfds/FOLDER`, with the labels that timm's reader gives them."""

from __future__ import annotations

import importlib.util
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from timm.data.readers.targets import get_field, has_field

from extract.errors import ImagesError, NoImageError
from extract.images.tables.rows import TableList, number_names, require_label
from store.table_keys import names_or_numbers

IMAGE_COLUMN, LABEL_COLUMN = "image", "label"  # timm's defaults
_NUMBER_TEXTS = (
    "datasets.load_dataset(NAME, split=SPLIT).class_encode_column({!r}).to_parquet('NEW/train.parquet'): give hfds/NEW "
    "here and to the training"
)
_NOT_BY_NAME = (
    "one of several configs or what save_to_disk left, is put in its reach by datasets.load_dataset(NAME, CONFIG, "
    "split=SPLIT), or load_from_disk(FOLDER), and .to_parquet('NEW/train.parquet'): give hfds/NEW here and to "
    "the training"
)


def list_hfds(name: str, input_key: str | None = None, target_key: str | None = None) -> TableList:
    """A dataset of Hugging Face's hub or of a local folder; `name` may end in the split, default `NAME:train`.

    `input_key`, `target_key`: the columns of images and labels, default `image` and `label`; as in timm, a label may
    lie deeper, `meta/label`. Keys are the files' names or row numbers, see `names_or_numbers`. Raises ImagesError
    without the package `datasets`, for a dataset that it cannot load, for a column that is missing or of another type,
    and for labels that are no class indices.
    """
    image, label = input_key or IMAGE_COLUMN, target_key or LABEL_COLUMN
    table = _cast_images(name, _load(name), image)
    parts = table.data.column(image).chunks  # without reading the images' bytes
    keys = names_or_numbers([path for part in parts for path in part.field("path").to_pylist()])
    labels, names = _labels(name, table, label)
    chosen = {} if image == IMAGE_COLUMN else {"input_key": image}
    return TableList(
        Path(name.partition(":")[0]),
        keys,
        labels,
        names,
        listed_by=chosen if label == LABEL_COLUMN else {**chosen, "target_key": label},
        read=partial(_read_cell, table.select_columns([image]), image),
    )


def _load(name: str) -> Any:
    if importlib.util.find_spec("datasets") is None:
        raise ImagesError(f"hfds/{name}: expected the package datasets, found none; pip install datasets")
    import datasets  # type: ignore[import-untyped]

    path, _, split = name.partition(":")
    try:
        return datasets.load_dataset(path, split=split or "train")
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise ImagesError(
            f"hfds/{name}: expected a dataset with a split {split or 'train'!r}, found: {error}; check the name, and "
            f"put another split behind it: hfds/NAME:SPLIT; what timm's reader cannot name, such as {_NOT_BY_NAME}"
        ) from error


def _cast_images(name: str, table: Any, column: str) -> Any:
    """The table with encoded images in the column: of images, of files' names or of files' bytes, as timm takes it."""
    import datasets

    feature = table.features.get(column)
    if feature is None:
        likely = [other for other, kind in table.features.items() if isinstance(kind, datasets.Image)]
        found = f"no column {column!r}" + (f", but images in {likely[0]!r}" if likely else "")
        raise _refuse_column(name, table, "--input-key", "a column of images", found)
    if isinstance(feature, dict) and not {"bytes", "path"} & feature.keys():
        raise _refuse_column(name, table, "--input-key", "images, their bytes or their paths", f"{column!r}: {feature}")
    try:
        return table.cast_column(column, datasets.Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise _refuse_column(
            name, table, "--input-key", "images, their bytes or their paths", f"{column!r}: {feature}"
        ) from error


def _labels(name: str, table: Any, key: str) -> tuple[npt.NDArray[np.int32], list[str]]:
    """int32 [N], and the names of the classes: their indices where they have none."""
    import datasets

    feature = get_field(table.features, key) if has_field(table.features, key) else None
    if feature is None:
        raise _refuse_column(name, table, "--target-key", "a column of class indices", f"no column {key!r}")
    names = getattr(feature, "names", None) if isinstance(feature, datasets.ClassLabel) else None
    whole = isinstance(feature, datasets.Value) and feature.dtype.startswith(("int", "uint", "bool"))
    if names is None and not whole:
        remedy = f"; texts, which timm does not train on, are numbered by {_NUMBER_TEXTS.format(key)}"
        text = isinstance(feature, datasets.Value) and feature.dtype.endswith("string")
        found = f"{key!r}: {feature}"
        raise _refuse_column(name, table, "--target-key", "one class index per image", found, remedy if text else "")
    top = key if key in table.features else key.partition("/")[0]
    values = (
        get_field({top: value}, key) if value is not None else None for value in table.data.column(top).to_pylist()
    )
    classes = {} if names is None else {"classes": len(names)}
    labels = [require_label(f"hfds/{name}: row {row}, {key!r}", v, **classes) for row, v in enumerate(values)]
    numbers = np.array(labels, np.int32)
    return numbers, number_names(numbers) if names is None else list(names)


def _refuse_column(name: str, table: Any, option: str, expected: str, found: str, remedy: str = "") -> ImagesError:
    """To be raised for a column that cannot be used."""
    columns = ", ".join(map(repr, table.features))
    return ImagesError(
        f"hfds/{name}: expected {expected}, found {found}; name one of the columns {columns} with {option}" + remedy
    )


def _read_cell(table: Any, column: str, row: int) -> bytes:
    """The encoded image, which lies in the table or beside it."""
    cell = table[row][column] or {}
    if cell.get("bytes"):
        raw: bytes = cell["bytes"]
        return raw
    path = cell.get("path")
    if not path:
        raise NoImageError("an empty cell")
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        if os.path.isdir(os.path.dirname(path) or "."):  # else a whole folder is gone, and with it perhaps a mount
            raise NoImageError("no such file") from error
        raise
