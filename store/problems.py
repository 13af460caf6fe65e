"""What can be wrong with a store.

`verify` names the cause. `repair` starts from it and then looks at the file: whole ones are set aside, damaged ones
removed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Cause(Enum):
    """The kind of a problem."""

    MISSING_SHARD = "missing shard"
    UNREADABLE_SHARD = "shard that the file system cannot read"
    DAMAGED_SHARD = "shard that is damaged, or not the one that belongs here"
    CHANGED_SHARD = "shard with a wrong checksum"
    DAMAGED_ROW = "row that was changed, or breaks a rule"
    WRONG_LIST = "other keys or labels than the header's"
    MISSING_HEAD = "missing head"
    DAMAGED_HEAD = "head that is damaged, or of another store"
    MISSING_EARLIER_HEADER = "missing header from before an extension"
    DAMAGED_EARLIER_HEADER = "damaged header from before an extension"
    FOREIGN_EARLIER_HEADER = "header of another store in the place of one from before an extension"
    WRONG_KEYS = "list of keys from before an extension that is missing, damaged or another store's"
    LEFTOVER = "temporary file"
    UNPLANNED_SHARD = "shard with a number that the header does not plan"
    FOREIGN_FILE = "file that is no part of a store"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    `file`: its name in the store's folder, None for a problem of the store as a whole; `shard`: its number, of
    problems with a planned shard; `row`: counted from the start of the store, with its `key`, where it is one row's.
    """

    cause: Cause
    file: str | None
    shard: int | None = field(default=None, kw_only=True)
    row: int | None = field(default=None, kw_only=True)
    key: str | None = field(default=None, kw_only=True)
    message: str

    def __str__(self) -> str:
        """One line: where, then what."""
        where = [] if self.file is None else [self.file]
        where += [] if self.row is None else [f"row {self.row}, key {self.key!r}"]
        return ": ".join([", ".join(where), self.message] if where else [self.message])
