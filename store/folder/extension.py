"""What a store keeps so that it can be extended: which keys it has, and in which order."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from store.errors import ShardError, StoreError, StoreMismatch
from store.folder.files import StrPath, present_shards, write_with_checksum
from store.format.checksum import CHECKSUM_NBYTES, has_checksum
from store.format.header import Header
from store.format.shard import open_shard
from store.spec import keys_name, shard_name


def require_own_shards(path: StrPath, header: Header) -> None:
    """Raise StoreMismatch where shards of the last extension are there already, but are not those of `header`.

    Where the header of an extension was lost, its shards are left, and belong to another list of images.
    """
    first = header.before(-1).sharding.shards
    foreign = []
    for shard in present_shards(path, header):
        try:
            if shard >= first:
                with open_shard(Path(path) / shard_name(shard), header, shard):
                    pass
        except ShardError:
            foreign.append(shard_name(shard))
    if foreign:
        raise StoreMismatch(
            f"{path}: extension {len(header.earlier)}: expected its own shards or none behind the first {first}, found "
            f"others, or damaged ones: {', '.join(foreign[:3])}{', ...' if foreign[3:] else ''}; give the images that "
            "they were made of, or move them elsewhere"
        )


def write_keys(path: StrPath, header: Header, keys: Sequence[str]) -> None:
    """Write the keys of the rows before the last extension, each followed by NUL; StoreError for a wrong number."""
    rows = header.earlier[-1][0]
    if len(keys) != rows:
        raise StoreError(f"{path}: expected the keys of {rows} rows to extend it, found {len(keys)}")
    text = "".join(f"{key}\0" for key in keys)
    write_with_checksum(Path(path) / keys_name(len(header.earlier)), io.BytesIO(text.encode("utf-8")))


def read_keys(path: StrPath, header: Header) -> list[str]:
    """The keys of the rows before the last extension; StoreError for a file that is missing, changed or another."""
    file, rows = Path(path) / keys_name(len(header.earlier)), header.earlier[-1][0]
    if not (file.is_file() and has_checksum(file)):
        raise _bad_keys(file, rows, "no such file, or a changed one")
    keys = file.read_bytes()[:-CHECKSUM_NBYTES].decode("utf-8").split("\0")[:-1]
    if len(keys) != rows:
        raise _bad_keys(file, rows, str(len(keys)))
    return keys


def _bad_keys(file: Path, rows: int, found: str) -> StoreError:
    return StoreError(
        f"{file}: expected the keys of {rows} rows, found {found}; run `tokenmix verify --repair`, or restore it from "
        "a copy"
    )


def stored_labels(path: StrPath, header: Header) -> dict[str, int]:
    """Key -> label of every row whose shard is there, in order; ShardError for a torn or foreign one."""
    labels: dict[str, int] = {}
    for shard in present_shards(path, header):
        with open_shard(Path(path) / shard_name(shard), header, shard, ["key", "label"]) as file:
            keys = [key.decode("utf-8") for key in file["key"][()].tolist()]
            labels.update(zip(keys, file["label"][()].tolist(), strict=True))
    return labels
