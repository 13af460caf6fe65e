"""Every system call of the writer fails once, or is the last one before a kill or a power loss.

The short form takes every STRIDE-th of these faults, `-m slow` all of them.
"""

import platform
import re
import shutil
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.faults.power import Disk, State
from tests.faults.writing import CALLS, CRASHED, REFUSED, contents, harmful, in_a_child, write_store

STRIDE = 11
ERRORS = ("EIO", "ENOSPC", "EDQUOT", "EROFS")
pytestmark = [
    pytest.mark.skipif(not shutil.which("strace"), reason="needs strace (Debian: strace)"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="calls are named otherwise here"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]
Fault = tuple[str, int, str]  # the name of a call, which of them, and what happens


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("undisturbed") / "maps"
    write_store(path)
    return contents(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log")


@pytest.fixture(scope="module")
def log(folder: Path, undisturbed: dict[str, bytes]) -> list[str]:
    """The calls of a run into a folder that is not there yet; not the first run, which imports more modules."""
    options = ["-y", "-e", f"trace={','.join(CALLS)}"]
    status, lines = in_a_child(lambda: write_store(folder / "new" / "maps"), folder / "log", options)
    if not lines:
        pytest.skip("strace may not attach to processes here")
    assert status == 0
    return lines


def faults(log: list[str]) -> Iterator[Fault]:
    """Every call but those on files that other tests of this process left open, which count all the same."""
    counted: dict[str, int] = {}
    for line in log:
        if (call := re.match(r"\d+ +(\w+)\(", line)) is not None:
            counted[call[1]] = counted.get(call[1], 0) + 1
            if "/site-packages/" in line:
                continue
            yield call[1], counted[call[1]], "signal=KILL"
            yield from ((call[1], counted[call[1]], f"error={error}") for error in ERRORS)


def strike(fault: Fault, folder: Path, undisturbed: dict[str, bytes]) -> int:
    """Run with this fault, judge the store, finish it; returns how the disturbed run ended."""
    call, number, what = fault
    maps = folder / "new" / "maps"
    options = ["-e", f"trace={call}", "-e", f"inject={call}:{what}:when={number}"]
    status, _ = in_a_child(partial(write_store, maps), folder / "log", options)
    assert status in ((-signal.SIGKILL,) if what == "signal=KILL" else (0, REFUSED)), (fault, status)
    assert status != CRASHED
    assert maps.exists() or call in ("mkdir", "openat"), fault
    if maps.exists():
        assert harmful(maps) == [], fault
        assert status or contents(maps) == undisturbed, fault
    write_store(maps)
    assert contents(maps) == undisturbed, fault
    shutil.rmtree(folder / "new")
    return status


def test_every_call_is_seen(log: list[str]) -> None:
    """None of the writer's steps may escape the faults below: what is opened to be written is synced and closed."""
    seen = {name for name, _, _ in faults(log)}
    assert seen == set(CALLS) - {"pwrite64"}
    assert sum("fsync" in line for line in log) == 2 * 6 + 2  # each file, then its folder; the folder's parents


@pytest.mark.parametrize("first", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in range(1, STRIDE))])
def test_a_fault_at_every_call(first: int, log: list[str], undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    chosen = list(faults(log))[first::STRIDE]
    ended = [strike(fault, tmp_path, undisturbed) for fault in chosen]
    assert {-signal.SIGKILL, REFUSED} <= set(ended)  # the faults do arrive


def states(folder: Path, log: list[str], final: dict[str, bytes]) -> tuple[set[State], set[State]]:
    """All that power losses during the run may leave, and what one after its end may."""
    disk = Disk(folder, final)
    found: set[State] = set()
    for line in log:
        disk.replay(line)
        found.update(disk.after_power_loss())
    return found, set(disk.after_power_loss())


def test_power_loss_after_every_call(
    folder: Path, log: list[str], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """What was not synced may be gone, empty, zero or torn, and of the names any prefix of what was done to them."""
    during, after = states(folder, log, undisturbed)
    assert len(during) > 20
    for number, state in enumerate(during):
        state.restore(tmp_path / str(number))
        maps = tmp_path / str(number) / "new" / "maps"
        if maps.exists():
            assert harmful(maps) == [], state
            assert state not in after or contents(maps) == undisturbed
        write_store(maps)
        assert contents(maps) == undisturbed, state


@pytest.mark.parametrize(
    "forgotten",
    [r"fsync.*shard-0+1\.h5.*tmp", r"fsync.*store\.json.*tmp", r"fsync.*store-1\.keys.*tmp", r"fsync.*/new/maps>"],
)
def test_a_writer_that_forgets_to_sync_would_be_found(
    forgotten: str, folder: Path, log: list[str], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    _, after = states(folder, [line for line in log if not re.search(forgotten, line)], undisturbed)
    lost = 0
    for number, state in enumerate(after):
        state.restore(tmp_path / str(number))
        lost += contents(tmp_path / str(number) / "new" / "maps") != undisturbed
    assert lost
