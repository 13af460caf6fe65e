"""Small real stores: random rows in a folder, written by the writer under test."""

import io
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from store import Header, RowBatch, ShardWriter, create_store
from store.format.checksum import with_checksum
from store.format.rows import list_digest
from store.spec import OPTIONAL_COLUMNS, STATUS_UNREADABLE

# A deadline measures the disk, and a folder per test may serve all examples of it.
settings.register_profile("disk", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
settings.load_profile("disk")

ODD_KEYS = ("cat/a b.jpg", "cat/line\nbreak.jpg", "dog/Ελλάδα 🐕.png", "dog/tab\t'quote\".jpg", "dog/ trailing ")


def make_rows(rows: int, grid: tuple[int, int] = (3, 5), dtype: str = "float16", seed: int = 0) -> RowBatch:
    """Random rows; the fifth is an unreadable image."""
    rng = np.random.default_rng(seed)
    maps = rng.standard_normal((rows, *grid)).astype(dtype)
    status = np.zeros(rows, dtype=np.uint8)
    status[4:5] = STATUS_UNREADABLE
    maps[4:5] = 0
    corner = rng.random((rows, 2), dtype=np.float32) / 4
    return RowBatch(
        payload={"label_logit": maps},
        label=rng.integers(0, 10, rows, dtype=np.int32),
        prediction=rng.integers(0, 10, rows, dtype=np.int32),
        size=rng.integers(1, 999, (rows, 2), dtype=np.int32),
        view=np.concatenate([corner, 1 - corner], axis=1),
        status=status,
        key=[f"{ODD_KEYS[row]}" if row < len(ODD_KEYS) else f"eel/{row:07d}.jpg" for row in range(rows)],
        error=["" if not bad else "truncated: é\n2 bytes missing" for bad in status],
        orientation=rng.integers(0, 9, rows, dtype=np.uint8),
        fingerprint=rng.integers(0, 1 << 64, rows, dtype=np.uint64),
    )


def part(batch: RowBatch, start: int, stop: int) -> RowBatch:
    """Rows [start, stop) of a batch."""
    columns = {name: column[start:stop] for name, column in vars(batch).items() if name != "payload"}
    return RowBatch(payload={name: a[start:stop] for name, a in batch.payload.items()}, **columns)


ALL_COLUMNS = tuple(column.name for column in OPTIONAL_COLUMNS)
CLASS_NAMES = [f"animal {i}" for i in range(10)]


def dataset_of(batch: RowBatch, teacher_class: Sequence[int] = range(10)) -> dict[str, Any]:
    """The header's field for these rows, of ten classes."""
    digest = list_digest(batch.key, batch.label)
    return {
        "root_name": "animals",
        "class_names": CLASS_NAMES,
        "teacher_class": list(teacher_class),
        "digest": digest,
    }


def make_header(batch: RowBatch, shard_rows: int, **changes: Any) -> Header:
    """A header that fits the rows."""
    logits = next(iter(batch.payload.values()))
    header = Header(
        kind="label",
        teacher={"name": "resnet26", "source": "random", "parameters": 16_000_000, "classes": 10},
        preprocessing={"input_size": (288, 288), "mean": (0.485, 0.456, 0.406)},
        grid=logits.shape[-2:],
        dtype=str(logits.dtype),
        rows=len(batch.key),
        shard_rows=shard_rows,
        dataset=dataset_of(batch),
        versions={"h5py": "3"},
        columns=ALL_COLUMNS,
    )
    return replace(header, **changes)


def write_shard(path: Path, header: Header, shard: int, batch: RowBatch, step: int = 4) -> Path:
    """Publish one shard of the store whose rows `batch` holds, in batches of `step`."""
    start, stop = header.sharding.bounds(shard)
    with ShardWriter(path, header, shard) as writer:
        for at in range(start, stop, step):
            writer.append(part(batch, at, min(at + step, stop)))
        return writer.publish()


def write_store(path: Path, batch: RowBatch, shard_rows: int, **changes: Any) -> Header:
    """A complete store of these rows."""
    header = make_header(batch, shard_rows, **changes)
    create_store(path, header)
    for shard in range(header.sharding.shards):
        write_shard(path, header, shard, batch)
    return header


def write_extended(path: Path, batch: RowBatch, shard_rows: int, ends: Sequence[int], **changes: Any) -> Header:
    """A complete store of these rows, extended at each row of `ends`."""
    header = write_store(path, part(batch, 0, ends[0]), shard_rows, **changes)
    for end, rows in pairwise((*ends, len(batch.key))):
        earlier = (*header.earlier, (end, header.dataset["digest"]))
        first = header.sharding.shards
        header = make_header(part(batch, 0, rows), shard_rows, earlier=earlier, **changes)
        create_store(path, header, batch.key[:end])
        for shard in range(first, header.sharding.shards):
            write_shard(path, header, shard, batch)
    return header


def contents(path: Path) -> dict[str, bytes]:
    """All files of a store."""
    return {file.name: file.read_bytes() for file in path.iterdir()}


def flip(file: Path, at: int = 4099) -> None:
    """Turn one bit of a file; by default in the payload of a shard."""
    raw = bytearray(file.read_bytes())
    raw[at] ^= 1
    file.write_bytes(raw)


def renew_checksum(file: Path) -> None:
    """After HDF5 wrote to a file again, which drops its checksum."""
    file.write_bytes(with_checksum(io.BytesIO(file.read_bytes())))


@pytest.fixture
def rows() -> RowBatch:
    return make_rows(17)


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 17 rows in shards of 6, the last one shorter; not to be touched."""
    path = tmp_path_factory.mktemp("pristine") / "maps"
    write_store(path, make_rows(17), 6)
    return path


@pytest.fixture
def maps(tmp_path: Path, pristine: Path) -> Path:
    """The same store, to be broken at will."""
    return shutil.copytree(pristine, tmp_path / "maps")
