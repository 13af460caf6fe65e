"""How far a store is: decided by the shards on disk, so it needs no running job, no torch and no device."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from extract.job.slurm import job_name
from store import read_header, unreadable_rows
from store.checking.predictions import read_predictions
from store.folder.claims import SILENT_S, Claim, list_shards
from store.spec import Json, header_name

WINDOW_S = 600.0  # the rate is that of the shards finished in the last so many seconds
_SLURM_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class WorkerState:
    """A process that has begun shards. `share_*`: of its time, waiting for images, in the teacher, writing."""

    host: str
    pid: int
    shards: tuple[int, ...]
    state: str  # working, slow, stuck, silent, dead
    age_s: float  # since its last sign of life
    rate: float | None  # img/s; None before the first sign
    share_read: float | None
    share_compute: float | None
    share_write: float | None
    waits_for: str | None = None  # stuck: the key of an image that takes too long to read
    waits_s: float | None = None  # for how long by now


@dataclass(frozen=True)
class Status:
    """The state of a store at one time; `rate` in img/s over the last minutes, `eta_s` None while that is 0."""

    rows: int
    rows_done: int
    shards: int
    shards_done: int
    rate: float
    eta_s: float | None
    workers: tuple[WorkerState, ...]
    slurm: Mapping[str, int]  # state -> tasks; empty where no Slurm answers
    unreadable: tuple[tuple[str, str], ...] | None  # key and reason; None when not asked for
    top1: float | None = None  # the share of right predictions in the finished shards; None where there are none
    top1_is_chance: bool = False  # hardly better than a guess, though the teacher has been trained
    rows_judged: int = 0  # those with a prediction
    rows_unreadable: int = 0
    shards_broken: int = 0  # finished, but cannot be read

    @property
    def complete(self) -> bool:
        """Whether every shard is in place."""
        return self.shards_done == self.shards


def read_status(path: Path, *, unreadable: bool = False) -> Status:
    """Read the folder and the predictions of finished shards, and ask Slurm where there is one.

    `unreadable` reads every shard's keys, which takes longer. Raises StoreError where there is no store, ShardError
    where `unreadable` meets a broken shard.
    """
    header = read_header(path)
    stored = read_predictions(path, header)
    confusion = stored.confusion
    listing = list_shards(path, header, times=True)
    rows = {shard: stop - start for shard in listing.finished for start, stop in [header.sharding.bounds(shard)]}
    now = time.time()
    window_s = min(WINDOW_S, now - (path / header_name(len(header.earlier))).stat().st_mtime)
    recent = sum(rows[shard] for shard, finished in listing.finished.items() if now - finished <= window_s)
    rate = recent / window_s if window_s > 0 else 0.0
    done = sum(rows.values())
    return Status(
        rows=header.rows,
        rows_done=done,
        shards=header.sharding.shards,
        shards_done=len(rows),
        rate=rate,
        eta_s=(header.rows - done) / rate if rate else None,
        workers=tuple(_workers(listing.claims)),
        slurm=_slurm_states(job_name(path)),
        unreadable=tuple(unreadable_rows(path)) if unreadable else None,
        top1=confusion.top1 if confusion.judged else None,
        top1_is_chance=stored.are_chance,
        rows_judged=confusion.judged,
        rows_unreadable=stored.unreadable,
        shards_broken=stored.broken,
    )


def _workers(claims: Iterable[Claim]) -> list[WorkerState]:
    by_process: dict[tuple[str, int], list[Claim]] = {}
    for claim in claims:
        by_process.setdefault((claim.host, claim.pid), []).append(claim)
    notes = {process: min(held, key=lambda claim: claim.age_s).note() for process, held in by_process.items()}
    numbers = {process: _numbers(note) for process, note in notes.items()}
    rates = {process: note["done"] / note["seconds"] for process, note in numbers.items() if note.get("seconds")}
    usual = median(rates.values()) if rates else 0.0
    return [
        _worker(held, numbers[process], rates.get(process), usual, notes[process].get("waits_for"))
        for process, held in by_process.items()
    ]


def _numbers(note: Mapping[str, Json]) -> dict[str, float]:
    return {name: float(value) for name, value in note.items() if isinstance(value, int | float)}


def _worker(
    held: list[Claim], note: Mapping[str, float], rate: float | None, usual: float, waits_for: Json
) -> WorkerState:
    age_s = min(claim.age_s for claim in held)
    state = "working"
    if rate is not None and rate < usual / 2:
        state = "slow"
    if age_s > SILENT_S:
        state = "silent"
    if waits_for is not None:
        state = "stuck"
    if all(claim.dead for claim in held):
        state = "dead"
    shards = tuple(sorted(claim.shard for claim in held))
    seconds = note.get("seconds", 0.0)
    read, compute, write = (
        note[name] / seconds if seconds and name in note else None for name in ("read_s", "compute_s", "write_s")
    )
    stuck = (str(waits_for), note.get("waits_s", 0.0) + age_s) if state == "stuck" else (None, None)
    return WorkerState(held[0].host, held[0].pid, shards, state, age_s, rate, read, compute, write, *stuck)


def _slurm_states(name: str) -> dict[str, int]:
    """State -> tasks: the unfinished ones by squeue; by sacct, where there is accounting, the others of a week."""
    states = Counter(_answer("squeue", "--noheader", "--array", f"--name={name}", "--format=%T"))
    ended = _answer("sacct", "-X", "--noheader", "--parsable2", "--array", f"--name={name}", "--starttime=now-7days",
                    "--format=State")  # fmt: skip
    states.update(word for line in ended if (word := line.split()[0]) not in ("PENDING", "RUNNING"))
    return dict(states)


def _answer(*command: str) -> list[str]:
    if shutil.which(command[0]) is None:
        return []
    try:
        # without the user's own filters and formats
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("SQUEUE_", "SACCT_"))}
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SLURM_TIMEOUT_S, env=environ)
    except subprocess.TimeoutExpired:
        return []
    return done.stdout.split("\n")[:-1] if done.returncode == 0 else []
