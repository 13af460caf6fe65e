"""An image whose read never returns, here a FIFO: a stop ends the job all the same, and who looks sees what hangs."""

import errno
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from extract.images.image_list import ImageList
from extract.job.processes import patience, signals
from extract.job.status import read_status
from extract.teacher.timm_teacher import TimmTeacher
from store import verify
from tests.extract.jobs import SPEC, run, shard_bytes

# Children fork from a server that has imported torch and timm once: a start costs milliseconds, not seconds.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["extract.job.run"])
HANGS = 17  # the last row, of the fourth shard


def job(images: ImageList, store: Path, workers: int, log: Path, grace_s: float, deaf: bool, slow_s: float) -> None:
    """As `tokenmix extract`; `deaf`: nothing reaches the main thread, as while it is in a call to a hung disk."""

    def say(message: str) -> None:
        with open(log, "a") as file:
            file.write(f"{message}\n")

    torch.set_num_threads(1)
    signals.GRACE_S, patience.SLOW_S, patience.LOOK_S = grace_s, slow_s, 0.1
    with signals.stop_on_signals(say) as stop:
        if deaf:
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        options: dict[str, Any] = {"decoding_processes": workers, "batch_size": 1, "stop": stop, "say": say}
        report = run(images, store, TimmTeacher(SPEC), **options)
        signals.leave(stop.exit_code if report.stopped else 0)


class Hanging:
    """A job that has come to the image that hangs."""

    def __init__(self, images: ImageList, store: Path, workers: int, **settings: Any) -> None:
        self.fifo, self.store, self.log = images.root / images.keys[HANGS], store, store.with_suffix(".log")
        given = {"grace_s": signals.GRACE_S, "deaf": False, "slow_s": 60.0, **settings}
        self.child: Any = FORKS.Process(target=job, args=(images, store, workers, self.log, *given.values()))
        self.child.start()
        # Opening for writing works from the moment that somebody reads; while it is open, reading waits for us.
        wait_until(self._is_read)
        wait_until(lambda: len(shard_bytes(store)) == 3)

    def _is_read(self) -> bool:
        try:
            self._writing = os.open(self.fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return False
        return True

    def _nobody_reads(self) -> bool:
        try:
            os.write(self._writing, b"x")
        except BrokenPipeError:
            return True
        return False

    def end(self) -> int:
        """Wait for the job and all its decoding processes; its exit status."""
        self.child.join(60)
        assert self.child.exitcode is not None, "it did not end"
        wait_until(self._nobody_reads, 5)
        os.close(self._writing)
        return int(self.child.exitcode)


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def whole(images: ImageList, teacher: TimmTeacher, tmp_path: Path) -> dict[str, bytes]:
    """The shards of an undisturbed run."""
    run(images, tmp_path / "alone", teacher, batch_size=1)
    return shard_bytes(tmp_path / "alone")


@pytest.fixture
def hanging(images: ImageList, whole: dict[str, bytes]) -> ImageList:
    """The same images, but one is a FIFO, and its file lies beside it."""
    path = images.root / images.keys[HANGS]
    path.rename(path.with_suffix(".whole"))
    os.mkfifo(path)
    return images


def check_resumed(images: ImageList, store: Path, teacher: TimmTeacher, whole: dict[str, bytes]) -> None:
    """What is finished stays, and with the image in place again the store ends as if nothing had happened."""
    assert len(shard_bytes(store)) == 3
    assert shard_bytes(store).items() < whole.items()
    path = images.root / images.keys[HANGS]
    path.with_suffix(".whole").rename(path)
    assert run(images, store, teacher, batch_size=1).complete
    assert shard_bytes(store) == whole
    assert verify(store).problems == ()


@pytest.mark.parametrize(("workers", "number", "code"), [(0, signal.SIGINT, 130), (2, signal.SIGUSR1, 75)])
def test_one_signal_ends_the_waiting(
    workers: int,
    number: signal.Signals,
    code: int,
    hanging: ImageList,
    whole: dict[str, bytes],
    teacher: TimmTeacher,
    tmp_path: Path,
) -> None:
    job = Hanging(hanging, tmp_path / "maps", workers)
    began = time.monotonic()
    os.kill(job.child.pid, number)
    assert job.end() == code
    assert time.monotonic() - began < signals.GRACE_S / 2
    assert not list((tmp_path / "maps").glob("*.tmp"))
    check_resumed(hanging, tmp_path / "maps", teacher, whole)


@pytest.mark.parametrize(("workers", "grace_s"), [(0, 0.5), (2, 60.0)])
def test_a_main_thread_that_cannot_be_interrupted(
    workers: int, grace_s: float, hanging: ImageList, whole: dict[str, bytes], teacher: TimmTeacher, tmp_path: Path
) -> None:
    """It is ended when its time is over, and by a second signal at once."""
    job = Hanging(hanging, tmp_path / "maps", workers, deaf=True, grace_s=grace_s)
    began = time.monotonic()
    os.kill(job.child.pid, signal.SIGINT)
    if grace_s > 1:
        time.sleep(0.1)
        os.kill(job.child.pid, signal.SIGTERM)
    assert job.end() == 130
    assert time.monotonic() - began < 10
    assert re.search("ended after SIGINT.*: .*(within 0 s|SIGTERM came)", job.log.read_text())
    check_resumed(hanging, tmp_path / "maps", teacher, whole)


def test_who_looks_sees_what_hangs(hanging: ImageList, tmp_path: Path) -> None:
    """On the terminal, and in the state of the store; a killed job leaves no process that reads."""
    job, key = Hanging(hanging, tmp_path / "maps", 2, slow_s=0.3), hanging.keys[HANGS]
    wait_until(lambda: job.log.exists() and f"{key!r}: expected to be read" in job.log.read_text())
    wait_until(lambda: [worker.state for worker in read_status(job.store).workers] == ["stuck"])
    (worker,) = read_status(job.store).workers
    assert worker.waits_for == key
    assert worker.waits_s is not None
    assert worker.waits_s > 0.3
    job.child.kill()
    assert job.end() == -signal.SIGKILL
    assert [worker.state for worker in read_status(job.store).workers] == ["dead"]
