"""A store written in the steps of the job, without a teacher and in one thread, so that system calls can be counted."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from extract.job.shard_queue import retry_while_unreachable
from store import Cause, Header, Problem, ShardWriter, StoreError, create_store, verify
from store.folder.files import discard_leftovers, present_shards
from store.folder.head import Head
from store.folder.head import write_head as put_head
from store.format.rows import list_digest
from tests.store.conftest import make_header, make_rows, part

CALLS = ("openat", "write", "pwrite64", "ftruncate", "fsync", "close", "mkdir", "link", "rename", "unlink")
REFUSED, CRASHED = 1, 3  # exit statuses of the child: an error for the user, anything else

ROWS = make_rows(5, (2, 2))
BATCH = replace(ROWS, payload={"features": np.repeat(ROWS.payload["label_logit"][:, None], 3, axis=1)})
EARLIER = make_header(part(BATCH, 0, 3), 3, kind="features", depth=3)
HEADER = replace(
    make_header(BATCH, 3, kind="features", depth=3), earlier=((3, list_digest(BATCH.key[:3], BATCH.label[:3])),)
)
HEAD = Head(np.ones((10, 3), np.float32), np.zeros(10, np.float32))


def write_store(path: Path) -> None:
    """A store of one shard, extended by another; whatever is there is kept."""
    if not (path / "store-1.json").exists():
        _fill(path, EARLIER, ())
    _fill(path, HEADER, BATCH.key[:3])


def _fill(path: Path, header: Header, earlier_keys: Sequence[str]) -> None:
    """What a worker does with a store, begun or not: header, head, what the dead left, every missing shard."""
    create_store(path, header, earlier_keys)
    put_head(path, header, HEAD)
    discard_leftovers(path)
    for shard in sorted(set(range(header.sharding.shards)) - set(present_shards(path, header))):
        with retry_while_unreachable(lambda shard=shard: ShardWriter(path, header, shard)) as writer:  # type: ignore[misc]
            writer.append(part(BATCH, *header.sharding.bounds(shard)))
            writer.beat({"done": 3})
            retry_while_unreachable(writer.publish)


def contents(path: Path) -> dict[str, bytes]:
    """Every file by name."""
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


def harmful(path: Path) -> list[Problem]:
    """What is wrong with a store, but for what is not there yet and temporary files."""
    if not (path / "store.json").exists():
        return []
    harmless = (Cause.MISSING_SHARD, Cause.MISSING_HEAD, Cause.LEFTOVER)
    return [problem for problem in verify(path).problems if problem.cause not in harmless]


def in_a_child(work: Callable[[], None], log: Path, options: Sequence[str]) -> tuple[int, list[str]]:
    """Run `work` in a forked child under strace; its exit status, negative for a signal, and the logged calls."""
    begin, end = os.pipe()
    child = os.fork()
    if not child:
        gc.disable()  # files that other tests left open would be closed among the calls that are counted
        os.read(begin, 1)
        os._exit(_status(work))
    tracer = subprocess.Popen(["strace", "-f", "-o", log, *options, "-p", str(child)], stderr=subprocess.DEVNULL)
    while not re.search(r"^TracerPid:\s*[1-9]", Path(f"/proc/{child}/status").read_text(), re.MULTILINE):
        if tracer.poll() is not None:
            os.kill(child, signal.SIGKILL)
            break
        time.sleep(0.001)
    os.write(end, b"x")
    _, status = os.waitpid(child, 0)
    tracer.wait()
    os.close(begin)
    os.close(end)
    return os.waitstatus_to_exitcode(status), log.read_text().splitlines()


def _status(work: Callable[[], None]) -> int:
    try:
        work()
    except (OSError, StoreError):
        return REFUSED
    except BaseException:
        return CRASHED
    return 0
