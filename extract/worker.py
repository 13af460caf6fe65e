"""Worker i of n: the only notion of parallelism, and which shards it owes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from extract.errors import ExtractError


@dataclass(frozen=True)
class Worker:
    """Worker `index` of `count`; shard s belongs to worker s mod count, whenever the workers start."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        """Raises ExtractError unless 0 <= index < count."""
        if not 0 <= self.index < self.count:
            raise ExtractError(f"worker {self.index}/{self.count}: expected 0 <= i < n in i/n")

    def share(self, shards: Iterable[int]) -> list[int]:
        """Those of `shards` that are this worker's."""
        return [shard for shard in shards if shard % self.count == self.index]

    @classmethod
    def parse(cls, text: str) -> Worker:
        """`i/n` -> worker i of n, i from 0."""
        index, slash, count = text.partition("/")
        if not (slash and index.isdigit() and count.isdigit()):
            raise ExtractError(f"--worker {text}: expected i/n with 0 <= i < n, for example 0/4")
        return cls(int(index), int(count))

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Worker:
        """torchrun's RANK/WORLD_SIZE, else a Slurm array's index and count, else 0 of 1."""
        if "RANK" in environ and "WORLD_SIZE" in environ:
            return cls(int(environ["RANK"]), int(environ["WORLD_SIZE"]))
        if "SLURM_ARRAY_TASK_ID" in environ:
            first = int(environ.get("SLURM_ARRAY_TASK_MIN", "0"))
            step = int(environ.get("SLURM_ARRAY_TASK_STEP", "1"))
            index = (int(environ["SLURM_ARRAY_TASK_ID"]) - first) // step
            return cls(index, int(environ["SLURM_ARRAY_TASK_COUNT"]))
        return cls()
