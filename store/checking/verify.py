"""Checking a store: every shard, every row, and every file beside them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from store.errors import ShardError, StoreError, StoreMismatch
from store.folder.create import read_header
from store.folder.extension import read_keys
from store.folder.files import StrPath, is_temporary, present_shards
from store.folder.head import read_head
from store.format.check_shard import check_shard
from store.format.header import Header
from store.format.rows import ListDigest, list_digest
from store.format.shard import open_shard
from store.format.table import Array, Table
from store.problems import Cause, Problem
from store.spec import CARD_FILE, HEAD_FILE, MANIFEST_FILE, STATUS_OK, header_name, keys_name, shard_name

_SHARD_NAME = re.compile(r"shard-\d{5,}\.h5")
_BESIDE = (Cause.FOREIGN_FILE, Cause.UNPLANNED_SHARD, Cause.LEFTOVER)


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
    problems = _unexpected_files(folder, header) + _head_problems(folder, header)
    rows = _SeenRows()
    for shard in range(header.sharding.shards):
        found, table = check_shard(folder / shard_name(shard), header, shard)
        problems += found
        rows.add(table)
    if rows.complete and rows.digest != header.dataset["digest"]:
        message = "list of (key, label): its digest is not that of the header; rows were exchanged or rewritten"
        problems.append(Problem(Cause.WRONG_LIST, None, message))
    for number in range(len(header.earlier)):
        problems += _earlier_header_problems(folder, header, number)
        problems += _earlier_keys_problems(folder, header, number, rows.labels if rows.complete else None)
    return VerifyReport(header.rows, header.sharding.shards, rows.unreadable, tuple(problems))


def require_sound(path: StrPath) -> None:
    """Raise StoreError for what `verify` finds in the store itself; files beside it are passed over."""
    problems = [problem for problem in verify(path).problems if problem.cause not in _BESIDE]
    if problems:
        raise StoreError(
            f"{path}: expected a sound store, found {len(problems)} problems: {problems[0]}; run `tokenmix verify`"
        )


def unreadable_rows(path: StrPath) -> Iterator[tuple[str, str]]:
    """Key and reason of every image that could not be decoded, in the shards that are present."""
    header = read_header(path)
    for shard in present_shards(path, header):
        with open_shard(Path(path) / shard_name(shard), header, shard, ["status", "key", "error"]) as file:
            for row in np.flatnonzero(file["status"][()] != STATUS_OK).tolist():
                yield file["key"][row].decode("utf-8"), file["error"][row].decode("utf-8")


class _SeenRows:
    """What is known of a store's rows after its shards were read one by one."""

    def __init__(self) -> None:
        self.complete = True
        self.unreadable = 0
        self._list = ListDigest()
        self._labels: list[Array] = []

    def add(self, table: Table | None) -> None:
        """The rows of the next shard, None where they cannot be read."""
        if table is None:
            self.complete = False
            return
        self.unreadable += int((table["status"] != STATUS_OK).sum())
        self._labels.append(table["label"])
        self._list.update(table["key"].tolist(), table["label"])

    @property
    def digest(self) -> str:
        """Of the list of (key, label)."""
        return self._list.hexdigest()

    @property
    def labels(self) -> Array:
        """int32 [rows]."""
        return np.concatenate(self._labels)


def _head_problems(folder: Path, header: Header) -> list[Problem]:
    if header.kind != "features":
        return []
    cause = Cause.DAMAGED_HEAD if os.path.lexists(folder / HEAD_FILE) else Cause.MISSING_HEAD
    try:
        read_head(folder, header)
    except ShardError as error:
        return [Problem(cause, HEAD_FILE, str(error))]
    except Exception as error:  # as for shards
        return [Problem(cause, HEAD_FILE, f"cannot be read: {type(error).__name__}: {error}")]
    return []


def _earlier_header_problems(folder: Path, header: Header, number: int) -> list[Problem]:
    """Of the header from before an extension: reading maps does not need it, taking the extension back does."""
    name = header_name(number)
    if not os.path.lexists(folder / name):
        message = "missing: expected the header from before an extension; `tokenmix verify --repair` writes it again"
        return [Problem(Cause.MISSING_EARLIER_HEADER, name, message)]
    try:
        read_header(folder, number).require(header.before(number), folder / name)
    except StoreMismatch as error:
        return [Problem(Cause.FOREIGN_EARLIER_HEADER, name, str(error))]
    except StoreError as error:
        return [Problem(Cause.DAMAGED_EARLIER_HEADER, name, str(error))]
    return []


def _earlier_keys_problems(folder: Path, header: Header, number: int, labels: Array | None) -> list[Problem]:
    """As the header: the keys of the rows before extension `number`.

    `labels` [rows] of the store; None where some are not known, and with them whether the keys are the right ones.
    """
    rows, digest = header.earlier[number]
    name = keys_name(number + 1)
    try:
        keys = read_keys(folder, header.after(number + 1))
        if labels is None or list_digest(keys, labels[:rows]) == digest:
            return []
    except StoreError as error:
        return [Problem(Cause.WRONG_KEYS, name, str(error))]
    message = f"expected the keys of the first {rows} rows, found others; run `tokenmix verify --repair`"
    return [Problem(Cause.WRONG_KEYS, name, message)]


def _unexpected_files(folder: Path, header: Header) -> list[Problem]:
    """Visible entries that no part of the format explains."""
    expected = {MANIFEST_FILE, CARD_FILE, *map(shard_name, range(header.sharding.shards))}
    for number in range(len(header.earlier) + 1):  # keys come before their header
        expected |= {header_name(number), keys_name(number + 1)}
    if header.kind == "features":
        expected.add(HEAD_FILE)
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    return [_unexpected(folder / name) for name in names if name not in expected]


def _unexpected(file: Path) -> Problem:
    if is_temporary(file):
        message = (
            "left over from a writer that was killed, or still at work; `tokenmix extract` removes those of its own "
            "machine, `tokenmix verify --repair` silent ones beside the complete file; others may be removed by hand "
            "when no job is at work"
        )
        return Problem(Cause.LEFTOVER, file.name, message)
    if _SHARD_NAME.fullmatch(file.name):
        message = (
            "expected no shard of this number; of an extension whose header was lost? Run `tokenmix extract --extend` "
            "with its images again; otherwise move it elsewhere"
        )
        return Problem(Cause.UNPLANNED_SHARD, file.name, message)
    return Problem(Cause.FOREIGN_FILE, file.name, "expected only the header and its shards here; move it elsewhere")
