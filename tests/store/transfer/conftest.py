"""A store of six files that is extended once, and processes that are killed."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from store import read_header
from store.transfer.manifest import Manifest
from tests.store.conftest import make_rows, part, write_extended, write_store

ROWS = make_rows(17)
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """17 rows in shards of 3; not to be touched."""
    path = tmp_path_factory.mktemp("whole") / "maps"
    write_store(path, ROWS, 3)
    return path


@pytest.fixture(scope="session")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its first 9 rows, as a store that is yet to be extended; not to be touched."""
    path = tmp_path_factory.mktemp("before") / "maps"
    write_store(path, part(ROWS, 0, 9), 3)
    return path


@pytest.fixture(scope="session")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, extended to 17 rows; not to be touched."""
    path = tmp_path_factory.mktemp("extended") / "maps"
    write_extended(path, ROWS, 3, [9])
    return path


def push_marker(there: Path, store: Path) -> None:
    """As a push of the store begins."""
    there.mkdir(exist_ok=True)
    (there / "manifest.json").write_bytes(Manifest(read_header(store).content_digest, {}, complete=False).to_json())


def kill_after(seconds: float, call: Callable[[], object]) -> bool:
    """Run the call in a process of its own and kill it; whether that came before its end."""
    child = os.fork()
    if not child:
        try:
            call()
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def kill_at(moment: int | None, call: Callable[[], object]) -> int | None:
    """Run the call in a process of its own, which is killed there; how many moments it had, if it came to its end.

    A moment is where Python is about to open, move or remove a file, or the like: machines of any speed have the same.
    """
    here, there = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(there, str(_count(moment, call)).encode())
        finally:
            os._exit(0)
    os.close(there)
    with os.fdopen(here) as pipe:
        moments = pipe.read()
    ended = os.waitpid(child, 0)[1]
    assert ended in (0, signal.SIGKILL)
    return int(moments) if ended == 0 else None


def _count(moment: int | None, call: Callable[[], object]) -> int:
    passed = itertools.count()

    def look(event: str, _: object) -> None:
        if event.startswith(("open", "os.")) and next(passed) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)
    call()
    return next(passed)


def kill_alone(after: float, name: str, source: str, target: str) -> bool:
    """Run `push` or `pull` in a process of its own, and kill it so long after it has begun; whether before its end.

    Not forked: both processes would talk through the same connections.
    """
    code = (
        "import fsspec, store, sys; fsspec.filesystem('s3').ls(''); print(flush=True); "
        "getattr(store, sys.argv[1])(*sys.argv[2:])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, name, source, target], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout
        process.stdout.readline()
        time.sleep(after)
        process.kill()
    return process.returncode == -signal.SIGKILL
