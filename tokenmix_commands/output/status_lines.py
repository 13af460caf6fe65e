"""The state of a store in lines for a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from statistics import median

from extract.job.status import WINDOW_S, Status, WorkerState


def status_lines(status: Status) -> Iterator[str]:
    """What is done, how fast, who is at work, and which images are unreadable, one line after the other."""
    yield f"rows      {status.rows_done} of {status.rows} ({100 * status.rows_done / status.rows:.1f} %)"
    yield f"shards    {status.shards_done} of {status.shards}"
    if status.top1 is not None:
        chance = ": HARDLY BETTER THAN A GUESS, see `tokenmix info`" if status.top1_is_chance else ""
        yield f"top-1     {100 * status.top1:.1f} % of {status.rows_judged} images{chance}"
    if status.rows_unreadable:
        yield f"errors    {status.rows_unreadable} unreadable images"
    if status.shards_broken:
        yield f"broken    {status.shards_broken} shards cannot be read, see `tokenmix verify`"
    if not status.complete:
        eta = "-" if status.eta_s is None else timedelta(seconds=round(status.eta_s))
        yield f"speed     {status.rate:.1f} img/s over the last {WINDOW_S / 60:.0f} minutes, {eta} to go"
    if status.slurm:
        yield "slurm     " + ", ".join(f"{count} {state}" for state, count in sorted(status.slurm.items()))
    if status.workers:
        yield from _worker_lines(status.workers)
    yield from (f"unreadable: {key!r}: {reason}" for key, reason in status.unreadable or ())


def _worker_lines(workers: Sequence[WorkerState]) -> Iterator[str]:
    """Counts of all, and a line on each that is not simply working."""
    counts = Counter(worker.state for worker in workers)
    yield "workers   " + ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    timed = [worker for worker in workers if worker.share_compute is not None]
    if timed:
        parts = [(name, median(getattr(w, f"share_{name}") for w in timed)) for name in ("read", "compute", "write")]
        yield "time      " + ", ".join(f"{name} {100 * share:.0f} %" for name, share in parts) + " (median worker)"
    for worker in sorted(workers, key=lambda worker: -worker.age_s):
        if worker.state != "working":
            shards = ", ".join(map(str, worker.shards))
            speed = "" if worker.rate is None else f", {worker.rate:.1f} img/s"
            seen = f"{worker.age_s:.0f} s ago"
            if worker.waits_for is not None:
                seen = f"reading {worker.waits_for!r} for {worker.waits_s:.0f} s"
            yield f"  {worker.state}: {worker.host} pid {worker.pid}, shards {shards}, {seen}{speed}"
