"""Runs seeded cases in forked children with limits on time and memory; what ends a child is found, with its seed."""

import faulthandler
import mmap
import multiprocessing
import os
import resource
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

Case = Callable[[int], str]
EXTRA_NBYTES = 2 << 30
# What a reader of data has no business to do. Not "import": h5py and numpy import parts of themselves when first used.
FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "socket.connect",
    "pickle.find_class",
)


def fuzz(case: Case, seeds: range, seconds: float = 20.0) -> tuple[Counter[str], dict[int, str]]:
    """How often each outcome was returned, and seed -> what went wrong: an exception, a signal or a hang."""
    context: Any = multiprocessing.get_context("fork")
    outcomes: Counter[str] = Counter()
    findings: dict[int, str] = {}
    at = seeds.start
    while at < seeds.stop:
        place = mmap.mmap(-1, 8)  # the seed at work, which outlives the child
        results = context.SimpleQueue()
        child = context.Process(target=_work, args=(case, range(at, seeds.stop), place, results))
        child.start()
        ended = _watch(child, place, results, seconds)
        last = int.from_bytes(place[:], "little")
        found, wrong = ended if isinstance(ended, tuple) else ({"before that": last - at}, {last: ended})
        outcomes.update(found)
        findings |= wrong
        at = seeds.stop if isinstance(ended, tuple) else last + 1
    return outcomes, findings


def _watch(child: Any, place: mmap.mmap, results: Any, seconds: float) -> Any:
    """The child's results, or how it ended without any."""
    seen, since = place[:], time.monotonic()
    while child.is_alive() or not results.empty():
        if not results.empty():
            found = results.get()
            child.join()
            return found
        if place[:] != seen:
            seen, since = place[:], time.monotonic()
        if time.monotonic() - since > seconds:
            child.kill()
            child.join()
            return f"no end within {seconds} s"
        time.sleep(0.005)
    child.join()
    return f"ended with {child.exitcode}"


def _work(case: Case, seeds: range, place: mmap.mmap, results: Any) -> None:
    pages = int(open("/proc/self/statm").read().split()[0])  # noqa: SIM115 - the child ends soon
    limit = pages * mmap.PAGESIZE + EXTRA_NBYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.disable()  # pytest's own; the parent names what happened
    sys.addaudithook(_refuse)
    outcomes: Counter[str] = Counter()
    findings: dict[int, str] = {}
    for seed in seeds:
        place[:] = seed.to_bytes(8, "little")
        try:
            outcomes[case(seed)] += 1
        except BaseException:
            findings[seed] = traceback.format_exc(limit=-4)
    results.put((dict(outcomes), findings))
    os._exit(0)


def _refuse(event: str, arguments: Any) -> None:
    if event in FORBIDDEN:
        raise AssertionError(f"a file made its reader do {event} {arguments}")
