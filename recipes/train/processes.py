"""One process, or several that torchrun started, each with a device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from timm.utils import init_distributed_device
from torch import distributed

from recipes.train.settings import TrainingError


@dataclass(frozen=True)
class Processes:
    """This process's device and rank, and how many there are."""

    device: torch.device
    rank: int = 0
    count: int = 1

    def summed(self, numbers: torch.Tensor) -> torch.Tensor:
        """Over all processes; each gets the sum."""
        if self.count == 1:
            return numbers
        total = numbers.clone()
        distributed.all_reduce(total)
        return total

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            distributed.barrier()


@contextmanager
def join_processes(device: str | None) -> Iterator[Processes]:
    """Find the others, and leave them at the end; `device`: default is the GPU where there is one.

    Raises TrainingError for a device that is not there, and for others that cannot be found.
    """
    found = SimpleNamespace(device=device or ("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        own = init_distributed_device(found)  # writes the rest into `found`
    except (AssertionError, RuntimeError, ValueError) as error:
        raise TrainingError(
            f"--device {found.device}: expected a device that this machine has and, of several processes, what "
            f"torchrun sets for each (RANK, MASTER_ADDR, ...), found: {error}; choose another, or start by torchrun"
        ) from error
    try:
        yield Processes(own, found.rank, found.world_size)
    finally:
        if found.distributed:
            distributed.destroy_process_group()
