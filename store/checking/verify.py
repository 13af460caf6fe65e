"""Checking a store: every shard, every row, and every file beside them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from store.errors import ShardError, StoreError
from store.folder.create import read_header
from store.folder.extension import read_keys
from store.folder.files import StrPath, is_temporary, present_shards
from store.folder.head import read_head
from store.format.checksum import has_checksum
from store.format.header import Header
from store.format.rows import Array, ListDigest, Table, list_digest, row_digests, row_faults
from store.format.shard import open_hdf5, open_shard, read_table
from store.spec import HEAD_FILE, INDEX_FILE, STATUS_OK, header_name, keys_name, shard_name


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong; `row` counts from the start of the store."""

    shard: int | None
    row: int | None
    key: str | None
    message: str

    def __str__(self) -> str:
        """One line: where, then what."""
        where = [] if self.shard is None else [shard_name(self.shard)]
        where += [] if self.row is None else [f"row {self.row}, key {self.key!r}"]
        return ": ".join([", ".join(where), self.message] if where else [self.message])


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found; `unreadable` counts sound rows whose image could not be decoded."""

    rows: int
    shards: int
    unreadable: int
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify(path: StrPath) -> VerifyReport:
    """Read all of a store and check it against its header and its digests.

    A damaged or missing shard is a problem in the report; StoreError only where there is no readable header.
    """
    folder = Path(path)
    header = read_header(folder)
    problems = _foreign_files(folder, header) + _head_problems(folder, header)
    problems += _index_problems(folder, header)
    listed: ListDigest | None = ListDigest()
    labels: list[Array] = []
    unreadable = 0
    for shard in range(header.sharding.shards):
        found, table = _read_checked(folder / shard_name(shard), header, shard)
        problems += found
        if table is None:
            listed = None
            continue
        unreadable += int((table["status"] != STATUS_OK).sum())
        labels.append(table["label"])
        if listed is not None:
            listed.update(table["key"].tolist(), table["label"])
    if listed is not None and listed.hexdigest() != header.dataset["digest"]:
        message = "list of (key, label): its digest is not that of the header; rows were exchanged or rewritten"
        problems.append(Problem(None, None, None, message))
    problems += _growth_problems(folder, header, np.concatenate(labels) if listed is not None else None)
    return VerifyReport(header.rows, header.sharding.shards, unreadable, tuple(problems))


def unreadable_rows(path: StrPath) -> Iterator[tuple[str, str]]:
    """Key and reason of every image that could not be decoded, in the shards that are present."""
    header = read_header(path)
    for shard in present_shards(path, header):
        with open_shard(Path(path) / shard_name(shard), header, shard, ["status", "key", "error"]) as file:
            for row in np.flatnonzero(file["status"][()] != STATUS_OK).tolist():
                yield file["key"][row].decode("utf-8"), file["error"][row].decode("utf-8")


def check_shard(path: Path, header: Header, shard: int) -> list[Problem]:
    """All that is wrong with one shard file by itself."""
    return _read_checked(path, header, shard)[0]


def _read_checked(path: Path, header: Header, shard: int) -> tuple[list[Problem], Table | None]:
    """The problems of a shard, and its rows where they can be read at all."""
    if not path.is_file():
        message = "missing: expected a file; run `tokenmix extract` again"
        return [Problem(shard, None, None, message)], None
    try:
        with open_shard(path, header, shard) as file:
            table = read_table(file, header)
    except ShardError as error:
        return [Problem(shard, None, None, str(error))], None
    except Exception as error:  # whatever HDF5 makes of damaged structures, it is the shard's fault
        return [Problem(shard, None, None, f"cannot be read: {type(error).__name__}: {error}")], None
    problems = _row_problems(header, shard, table)
    if not problems and not has_checksum(path):
        problems = [
            Problem(shard, None, None, "checksum: the file was changed after it was written, outside of its rows")
        ]
    return problems, table


def _row_problems(header: Header, shard: int, table: Table) -> list[Problem]:
    start, _ = header.sharding.bounds(shard)
    wrong = np.flatnonzero(row_digests(header, table) != table["digest"]).tolist()
    faults = [(row, "digest: the row was changed after it was written") for row in wrong]
    faults += row_faults(header, table)
    keys = table["key"]
    return [
        Problem(shard, start + row, keys[row].decode("utf-8", errors="backslashreplace"), message)
        for row, message in sorted(faults)
    ]


def _head_problems(folder: Path, header: Header) -> list[Problem]:
    if header.kind != "features":
        return []
    try:
        read_head(folder, header)
    except ShardError as error:
        return [Problem(None, None, None, f"{HEAD_FILE}: {error}")]
    except Exception as error:  # as for shards
        return [Problem(None, None, None, f"{HEAD_FILE}: cannot be read: {type(error).__name__}: {error}")]
    return []


def _index_problems(folder: Path, header: Header) -> list[Problem]:
    """Of the index, where there is one: whole, and made of the store as it is."""
    file = folder / INDEX_FILE
    if not file.is_file():
        return []
    try:
        with open_hdf5(file) as index:
            same = has_checksum(file) and index.attrs.get("content_digest") == header.content_digest.encode()
    except Exception:  # as for shards
        same = False
    message = f"{INDEX_FILE}: was changed, or made before an extension; run `tokenmix index` again"
    return [] if same else [Problem(None, None, None, message)]


def _growth_problems(folder: Path, header: Header, labels: Array | None) -> list[Problem]:
    """Headers and keys from before the last extension are read when a job resumes, or never: checked all the same.

    `labels` [rows] of the store, None where some are not known, and with them whether the keys are the right ones.
    """
    problems = []
    for number, (rows, digest) in enumerate(header.earlier):
        name = header_name(number)
        extended = header.before(number + 1) if number + 1 < len(header.earlier) else header
        try:
            if not os.path.lexists(folder / name):
                raise StoreError(f"{name}: missing: expected the header from before an extension; run `tokenmix "
                                 "verify --repair`, which writes it again")  # fmt: skip
            read_header(folder, number).require(header.before(number), folder / name)
        except StoreError as error:
            problems.append(Problem(None, None, None, str(error)))
        try:
            keys = read_keys(folder, extended)
            if labels is not None and list_digest(keys, labels[:rows]) != digest:
                raise StoreError(f"{keys_name(number + 1)}: expected the keys of the first {rows} rows, found others; "
                                 "run `tokenmix verify --repair`")  # fmt: skip
        except StoreError as error:
            problems.append(Problem(None, None, None, str(error)))
    return problems


def _foreign_files(folder: Path, header: Header) -> list[Problem]:
    """Visible entries that no part of the format explains."""
    expected = {INDEX_FILE, *map(shard_name, range(header.sharding.shards))}
    for number in range(len(header.earlier) + 1):  # keys come before their header
        expected |= {header_name(number), keys_name(number + 1)}
    if header.kind == "features":
        expected.add(HEAD_FILE)
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    return [Problem(None, None, None, f"{name}: {_explain(folder / name)}") for name in names if name not in expected]


def _explain(file: Path) -> str:
    if is_temporary(file):
        return (
            "left over from a writer that was killed, or still at work; `tokenmix extract` removes those of its own "
            "machine, `tokenmix verify --repair` silent ones beside the complete file; others may be removed by hand "
            "when no job is at work"
        )
    if re.fullmatch(r"shard-\d{5,}\.h5", file.name):
        return (
            "expected no shard of this number; of an extension whose header was lost? Run `tokenmix extract --extend` "
            "with its images again; otherwise move it elsewhere"
        )
    return "expected only the header and its shards here; move it elsewhere"
