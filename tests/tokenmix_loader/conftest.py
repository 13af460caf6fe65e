import importlib.util
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import settings
from PIL import Image

from store import Header, RowBatch, ShardWriter, create_store
from store.format.rows import list_digest
from store.spec import STATUS_OK, STATUS_UNREADABLE
from tokenmix_loader import MapStore
from tokenmix_loader.compiled import door
from tokenmix_loader.scoring.masks import KINDS

# Deadlines and several threads measure the machine, not the code.
settings.register_profile("steady", deadline=None)
settings.load_profile("steady")
torch.set_num_threads(1)

CLASSES = ("ant", "bee", "cat")
GRID = (6, 6)
StoreMaker = Callable[..., MapStore]


@pytest.fixture(scope="module", params=["compiled", "tensors"])
def arithmetic(request: pytest.FixtureRequest) -> Iterator[str]:
    """A module's tests twice: with numba and as without it."""
    if request.param == "compiled" and importlib.util.find_spec("numba") is None:
        pytest.skip("numba is not installed")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "tensors":
            patch.setattr(door, "_load", lambda: None)
        else:
            assert door.compiled_for() is not None
        yield request.param


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class folder of 30 JPEGs in three classes; timm and torchvision sort img10 and img9 differently."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (root / name).mkdir()
        for i in range(2, 12):
            width, height = size_of(f"img{i}.jpg")
            pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"img{i}.jpg")
    return root


def size_of(key: str) -> tuple[int, int]:
    """Width and height of the image with this key: each file number has its own."""
    return 60, 40 + int("".join(filter(str.isdigit, key)) or 0)


def keys_and_labels(root: Path) -> dict[str, int]:
    """Key -> label of a class folder, in torchvision's order."""
    return {path.relative_to(root).as_posix(): CLASSES.index(path.parent.name) for path in sorted(root.glob("*/*"))}


def class_map(label: int) -> npt.NDArray[np.float16]:
    """What the teacher says of each image: the evidence of class k lies in quadrant k."""
    maps = np.full(GRID, -1, np.float16)
    row, column = divmod(label, 2)
    maps[3 * row : 3 * row + 3, 3 * column : 3 * column + 3] = 1
    return maps


@pytest.fixture
def make_store(tmp_path: Path) -> StoreMaker:
    def make(
        rows: Mapping[str, int],
        unreadable: tuple[str, ...] = (),
        payload: Mapping[str, npt.NDArray[Any]] | None = None,
        class_names: Sequence[str] = CLASSES,
        other: Mapping[str, npt.NDArray[Any]] | None = None,
        **fields: Any,
    ) -> MapStore:
        """`payload` and `fields` of the header: of another kind than label; `other` columns in the place of these."""
        keys, labels = list(rows), np.array([*rows.values()], np.int32)
        n, bad = len(keys), np.isin(keys, unreadable)
        given: dict[str, Any] = {"label_logit": np.stack([class_map(label) for label in labels])}
        given = given if payload is None else dict(payload)
        for values in given.values():
            values[bad] = 0
        common: dict[str, Any] = {
            "kind": "label", "teacher": {"name": "quadrants", "classes": len(class_names)}, "preprocessing": {},
            "grid": GRID, "dtype": "float16", "rows": n, "shard_rows": 8, "versions": {},
            "columns": ("orientation",),
            "dataset": {"root_name": "images", "class_names": class_names,
                        "teacher_class": list(range(len(class_names))), "digest": list_digest(keys, labels)},
        }  # fmt: skip
        header = Header(**common | fields)
        path = tmp_path / f"maps-{header.content_digest[:8]}-{bad.sum()}-{zlib.crc32(repr(other).encode())}"
        create_store(path, header)
        view = np.where(bad[:, None], 0, np.array([0, 0, 1, 1])).astype(np.float32)
        columns: dict[str, Any] = {
            "label": labels, "prediction": labels, "view": view,
            "size": np.array([size_of(key) for key in keys], np.int32),
            "status": np.where(bad, STATUS_UNREADABLE, STATUS_OK).astype(np.uint8),
            "key": np.array(keys, object), "error": np.where(bad, "cut off", "").astype(object),
            "orientation": np.ones(n, np.uint8),
        } | dict(other or {})  # fmt: skip
        for shard in range(header.sharding.shards):
            part = slice(*header.sharding.bounds(shard))
            with ShardWriter(path, header, shard) as writer:
                planes, rest = ({name: all_[part] for name, all_ in table.items()} for table in (given, columns))
                writer.append(RowBatch(payload=planes, **rest))
                writer.publish()
        return MapStore(path)

    return make


def small_blocks(settings: dict[str, Any]) -> dict[str, Any]:
    """Blocks that leave room on a small grid, for the kinds of mask that have any."""
    return {"min_tokens": 4} if settings.get("kind", "block") in KINDS else {}
