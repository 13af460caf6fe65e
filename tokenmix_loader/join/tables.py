"""Hugging Face's datasets as a source of images: keys are those that `extract hfds/NAME` gives them."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import Any, BinaryIO

from PIL import Image

from tokenmix_loader.store_access import names_or_numbers


def is_table(dataset: Any) -> bool:
    """Whether it is a `datasets.Dataset`; without importing that package, for then it is imported already."""
    package = sys.modules.get("datasets")
    return package is not None and isinstance(dataset, package.Dataset)


def require_plain_table(table: Any, input_key: str) -> None:
    """TypeError without a column of images of that name, ValueError for a table with a transform or format."""
    columns = {name: type(feature).__name__ for name, feature in table.features.items()}
    if columns.get(input_key) != "Image":
        raise TypeError(
            f"MapDataset: expected a column {input_key!r} of type Image, found {columns}; pass input_key='...', or "
            "cast_column(..., datasets.Image()) first"
        )
    if table.format["type"] is not None:
        raise ValueError(
            f"MapDataset: expected a dataset without a format, found {table.format['type']!r}, which may move what the "
            "maps show; take with_transform or with_format away and give the transform to MapDataset"
        )


def table_keys(table: Any, input_key: str) -> Sequence[str]:
    """Keys of a table's images, as its rows were written, even if rows were selected or shuffled since.

    ValueError where keys are row numbers and the table is a slice of another, which does not say where it begins.
    """
    parts = table.data.column(input_key).chunks  # without reading the images' bytes
    names = [path for part in parts for path in part.field("path").to_pylist()]
    keys = names_or_numbers(names)
    if keys[:1] == names_or_numbers([None]) and _is_slice(table, parts):
        raise ValueError(
            f"MapDataset: expected a whole table, for its images are known by their row numbers, found {len(names)} "
            "rows cut out of another; give the whole one and choose with torch's Subset, or pass keys=[...]"
        )
    return keys if table._indices is None else [keys[row] for row in table._indices.column(0).to_pylist()]


def _is_slice(table: Any, parts: Sequence[Any]) -> bool:
    splits = table.info.splits or {}
    whole = splits[str(table.split)].num_examples if str(table.split) in splits else table.data.num_rows
    return bool(parts[0].offset) or whole != table.data.num_rows


def table_labels(table: Any, target_key: str) -> Any:
    """The column of labels; TypeError where there is none."""
    if target_key not in table.features:
        raise TypeError(
            f"MapDataset: expected a column {target_key!r} of labels, found {sorted(table.features)}; pass "
            "target_key='...' or labels=[...]"
        )
    return table.select_columns([target_key])[:][target_key]


class TableImages:
    """The images of a table: decoded as the table does it, which turns them as EXIF says, and as they are encoded."""

    def __init__(self, table: Any, input_key: str) -> None:
        """`input_key`: the column of images."""
        self._input_key = input_key
        images = table.select_columns([input_key])
        as_it_is = images.features[input_key].decode
        self._decoded = images if as_it_is else images.cast_column(input_key, sys.modules["datasets"].Image())
        self._encoded = images.cast_column(input_key, sys.modules["datasets"].Image(decode=False))

    def load(self, index: int) -> Image.Image | None:
        """One image, in RGB as the usual folders give it; None for an empty cell."""
        image: Image.Image | None = self._decoded[index][self._input_key]
        return None if image is None else image.convert("RGB")

    def name(self, index: int) -> str:
        """What to call an image in a message."""
        return f"row {index} of the column {self._input_key!r}"

    def open(self, index: int) -> BinaryIO:
        """One encoded image."""
        cell = self._encoded[index][self._input_key]
        return io.BytesIO(cell["bytes"]) if cell["bytes"] else open(cell["path"], "rb")
