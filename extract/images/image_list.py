"""The ordered list of images that a store is made of, whatever they lie in."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from extract.errors import NoImageError
from store.format.rows import list_digest
from store.spec import Json


@dataclass(frozen=True)
class ImageList:
    """N images in a fixed order; `labels` [N] count in `class_names` [K], the dataset's own classes.

    `open` may be called from any thread or forked worker.
    """

    root: Path
    keys: Sequence[str]
    labels: npt.NDArray[np.int32]
    class_names: Sequence[str]
    members: Mapping[str, tuple[int, int]] = field(default_factory=dict, repr=False)  # tar: key -> offset, bytes
    dangling: frozenset[str] = field(default=frozenset(), repr=False)  # links that led nowhere when listed
    listed_by: Mapping[str, Json] = field(default_factory=dict)  # what was chosen: fields of the header's `dataset`

    def __len__(self) -> int:
        return len(self.keys)

    def open(self, row: int) -> BinaryIO:
        """The encoded image as a file; raises NoImageError where there is none, OSError where the file system fails."""
        key = self.keys[row]
        if not self.members:
            return self._open_file(key)
        offset, nbytes = self.members[key]
        with open(self.root, "rb") as tar:  # pread on a descriptor of our own: nothing shared between workers
            return io.BytesIO(os.pread(tar.fileno(), nbytes, offset))

    def _open_file(self, key: str) -> BinaryIO:
        """A link that led nowhere when listed has no image; one that led somewhere may lead to a mount that is gone."""
        try:
            return open(self.root / key, "rb")
        except OSError as error:
            if key in self.dangling:
                raise NoImageError("a link to nothing") from error
            raise

    def header(self) -> dict[str, Json]:
        """The `dataset` field of the store's header, but for what only the teacher knows."""
        return {
            "root_name": self.root.resolve().name,
            "class_names": list(self.class_names),
            "digest": self.digest,
            **self.listed_by,
        }

    @cached_property
    def digest(self) -> str:
        """Of the ordered list of (key, label)."""
        return list_digest(self.keys, self.labels)
