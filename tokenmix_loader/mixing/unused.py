"""A log line for a mixer that never got a batch, because a training without it looks like any other."""

from __future__ import annotations

import logging
import os
import weakref

import torch


def say_if_unused(mixer: object) -> torch.Tensor:
    """A flag, shared by all processes, to be set by the first batch; unless it is, a line is logged when `mixer` ends.

    By logging, not by a warning: `mixer` may end while the interpreter does.
    """
    used: torch.Tensor = torch.zeros(1, dtype=torch.bool).share_memory_()  # type: ignore[no-untyped-call]
    weakref.finalize(mixer, _say_unless, used, type(mixer).__name__, os.getpid())
    return used


def _say_unless(used: torch.Tensor, name: str, process: int) -> None:
    if not used and os.getpid() == process:
        logging.getLogger(__name__).warning(
            "%s: expected batches, found none until its end: nothing was trained with maps through it; look whether it "
            "was given to the loader or called in the loop, and whether the loader has any batch (with drop_last it "
            "has none of fewer images than batch_size)",
            name,
        )
