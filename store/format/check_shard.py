"""One shard file checked by itself: its structure, every row, and its checksum."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from store.errors import ShardError
from store.format.checksum import has_checksum
from store.format.header import Header
from store.format.row_rules import row_faults
from store.format.shard import is_file_system_failure, open_shard, read_table
from store.format.table import Table, row_digests
from store.problems import Cause, Problem


class CheckedShard(NamedTuple):
    """What is wrong with a shard, and its rows where they can be read at all."""

    problems: list[Problem]
    table: Table | None


def check_shard(path: Path, header: Header, shard: int) -> CheckedShard:
    """Read a whole shard file and check all of it."""
    if not path.is_file():
        message = "missing: expected a file; run `tokenmix extract` again"
        return CheckedShard([Problem(Cause.MISSING_SHARD, path.name, message, shard=shard)], None)
    try:
        with open_shard(path, header, shard) as file:
            table = read_table(file, header)
        unchanged = has_checksum(path)
    except Exception as error:  # whatever HDF5 makes of damaged structures, it is the shard's fault
        return CheckedShard([_cannot_read(path, shard, error)], None)
    problems = _row_problems(path, header, shard, table)
    if not problems and not unchanged:
        message = "checksum: the file was changed after it was written, outside of its rows"
        problems = [Problem(Cause.CHANGED_SHARD, path.name, message, shard=shard)]
    return CheckedShard(problems, table)


def _cannot_read(path: Path, shard: int, error: Exception) -> Problem:
    failed = is_file_system_failure(error) or is_file_system_failure(error.__cause__)
    cause = Cause.UNREADABLE_SHARD if failed else Cause.DAMAGED_SHARD
    message = str(error) if isinstance(error, ShardError) else f"cannot be read: {type(error).__name__}: {error}"
    return Problem(cause, path.name, message, shard=shard)


def _row_problems(path: Path, header: Header, shard: int, table: Table) -> list[Problem]:
    start, _ = header.sharding.bounds(shard)
    wrong = np.flatnonzero(row_digests(header, table) != table["digest"]).tolist()
    faults = [(row, "digest: the row was changed after it was written") for row in wrong]
    faults += row_faults(header, table)
    keys = [key.decode("utf-8", errors="backslashreplace") for key in table["key"].tolist()]
    return [
        Problem(Cause.DAMAGED_ROW, path.name, message, shard=shard, row=start + row, key=keys[row])
        for row, message in sorted(faults)
    ]
