"""Who is at work on which shard: the temporary file that a writer has begun is also its claim.

A claim is a hint, not a lock, because locks do not hold on network file systems: two writers of one shard cost
time and nothing else. The file's modification time is the writer's last sign of life; until the shard is complete,
its content is a note of the writer's.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from store.folder.files import StrPath, is_dead, split_temporary
from store.format.header import Header
from store.spec import Json, shard_name

SILENT_S = 120.0  # a writer without a sign of life for longer is not taken to be at work
_MAX_NOTE_NBYTES = 4096


@dataclass(frozen=True)
class Claim:
    """A shard that a writer has begun and not finished; `dead`: its process is known to be gone.

    `last_beat`: its last sign of life, in UNIX time by the file system's clock; `age_s`: how long ago that is by the
    clock of this machine, in seconds. The two clocks may differ, or be set meanwhile.
    """

    shard: int
    path: Path
    host: str
    pid: int
    last_beat: float
    age_s: float
    dead: bool

    def note(self) -> Mapping[str, Json]:
        """What the writer said of itself; empty when it said nothing, or has just finished."""
        try:
            with open(self.path, "rb") as file:
                note = json.loads(file.read(_MAX_NOTE_NBYTES))
        except (OSError, ValueError):
            return {}
        return note if isinstance(note, dict) else {}


@dataclass(frozen=True)
class Listing:
    """One look at the folder of a store: mtimes (UNIX time) of the complete shards, and the claims, by name."""

    finished: Mapping[int, float]
    claims: tuple[Claim, ...]


def list_shards(path: StrPath, header: Header, *, times: bool = False) -> Listing:
    """Read the folder once; with `times` every shard's mtime, else 0 for each, which saves a call per shard."""
    numbers = {shard_name(shard): shard for shard in range(header.sharding.shards)}
    finished: dict[int, float] = {}
    claims: list[Claim] = []
    with os.scandir(path) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # finished or dropped since
                if entry.name in numbers and entry.is_file():
                    finished[numbers[entry.name]] = entry.stat().st_mtime if times else 0.0
                elif (claim := _claim(entry, numbers)) is not None:
                    claims.append(claim)
    return Listing(finished, tuple(sorted(claims, key=lambda claim: claim.path.name)))


def leave_note(temporary: Path, note: Mapping[str, Json]) -> None:
    """Give a sign of life, with a note on the work. Never fails: the claim may be gone, or the disk full."""
    with contextlib.suppress(OSError), open(temporary, "r+b") as file:
        file.truncate()
        file.write(json.dumps(note).encode("ascii"))


def _claim(entry: os.DirEntry[str], numbers: Mapping[str, int]) -> Claim | None:
    parts = split_temporary(entry.name)
    if parts is None or parts.target not in numbers:
        return None
    last_beat = entry.stat().st_mtime
    age_s = max(0.0, time.time() - last_beat)
    path = Path(entry.path)
    return Claim(numbers[parts.target], path, parts.host, parts.pid, last_beat, age_s, is_dead(path))
