"""Worker i of n: its share of the shards, and its device."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

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

    def owns(self, shard: int) -> bool:
        """Whether the shard belongs to this worker's share."""
        return shard % self.count == self.index

    def share(self, shards: Iterable[int]) -> list[int]:
        """Those of `shards` that are this worker's."""
        return [shard for shard in shards if self.owns(shard)]

    def next_shard(self, shards: int, taken: Container[int]) -> int | None:
        """The shard of 0..shards-1 to begin next: the first free one of this worker's share, else another's.

        Owners work upwards, so what they will not reach for long lies at the far end. Workers that have run out
        spread over the last `count` free shards, one per worker on average, so that they seldom choose the same.
        """
        for shard in range(self.index, shards, self.count):
            if shard not in taken:
                return shard
        free = (shard for shard in range(shards - 1, -1, -1) if shard not in taken)
        far = list(islice(free, self.count))
        return far[self.index * len(far) // self.count] if far else None

    @classmethod
    def parse(cls, text: str) -> Worker:
        """`i/n` -> worker i of n, i from 0."""
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal()):
            raise ExtractError(f"--worker {text}: expected i/n with 0 <= i < n, for example 0/4")
        return cls(int(index), int(count))

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Worker:
        """torchrun's RANK/WORLD_SIZE; else Slurm's array index and the task of its job step; else 0 of 1.

        Outside of `srun` a job has one process, whatever --ntasks says. Raises ExtractError for variables that make
        no sense together.
        """
        try:
            if "RANK" in environ and "WORLD_SIZE" in environ:
                return cls(int(environ["RANK"]), int(environ["WORLD_SIZE"]))
            array, task = _slurm_array(environ), _slurm_task(environ)
        except (KeyError, ValueError, ZeroDivisionError) as error:
            raise ExtractError(
                f"environment: expected the numbers that torchrun or Slurm set, found {type(error).__name__}: {error}; "
                "say who this is with --worker I/N"
            ) from error
        return cls(array.index * task.count + task.index, array.count * task.count)


def local_device(given: str | None, cuda_devices: int, environ: Mapping[str, str] = os.environ) -> str:
    """The torch device of this process: of several on a node, each worker takes its own unless told which."""
    device = given or ("cuda" if cuda_devices else "cpu")
    if device != "cuda" or not cuda_devices:
        return device
    local = int(environ.get("LOCAL_RANK", environ.get("SLURM_LOCALID", "0")))
    return f"cuda:{local % cuda_devices}"


def _slurm_array(environ: Mapping[str, str]) -> Worker:
    if "SLURM_ARRAY_TASK_ID" not in environ:
        return Worker()
    first = int(environ.get("SLURM_ARRAY_TASK_MIN", "0"))
    step = int(environ.get("SLURM_ARRAY_TASK_STEP", "1"))
    return Worker((int(environ["SLURM_ARRAY_TASK_ID"]) - first) // step, int(environ["SLURM_ARRAY_TASK_COUNT"]))


def _slurm_task(environ: Mapping[str, str]) -> Worker:
    if "SLURM_STEP_NUM_TASKS" not in environ:
        return Worker()
    return Worker(int(environ["SLURM_PROCID"]), int(environ["SLURM_STEP_NUM_TASKS"]))
