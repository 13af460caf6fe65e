"""The job itself: what it stores, that it resumes exactly, and that every failure keeps what is finished."""

import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from extract.errors import ExtractError, ImagesError, TeacherError
from extract.images.image_list import ImageList
from extract.images.listing import list_images
from extract.job.decoding import Decoder, Sample
from extract.job.processes.signals import stop_on_signals
from extract.job.progress import Progress
from extract.settings.worker import Worker
from extract.teacher.protocol import Maps, Pending
from extract.teacher.timm_teacher import TimmTeacher
from store import MapStore, StoreError, StoreMismatch, verify
from store.spec import STATUS_UNREADABLE
from tests.extract.jobs import SPEC, run, shard_bytes


def test_stored_is_what_the_teacher_says(images: ImageList, teacher: TimmTeacher, tmp_path: Path) -> None:
    report = run(images, tmp_path / "maps", teacher)
    assert report.complete
    assert (report.shards_written, report.progress.done) == (4, 18)
    assert verify(tmp_path / "maps").problems == ()
    maps = MapStore(tmp_path / "maps")
    assert list(maps.keys) == list(images.keys)
    assert maps.labels.tolist() == images.labels.tolist()
    decoder = Decoder(images, teacher.preprocessing)
    for row in range(len(images)):
        sample = decoder[row]
        assert sample.pixels is not None
        direct = teacher.model(teacher.normalise(sample.pixels[None]))[0].detach()
        logit = float(maps.read([row]).astype(np.float32).mean())
        assert math.isclose(logit, float(direct[images.labels[row]]), rel_tol=2e-3, abs_tol=2e-3)
        assert int(maps.predictions[row]) == int(direct.argmax())
        assert maps.sizes[row].tolist() == list(sample.size)
        assert maps.views([row])[0].tolist() == pytest.approx(list(sample.view))


def test_same_bytes_with_other_decoding_processes(images: ImageList, teacher: TimmTeacher, tmp_path: Path) -> None:
    run(images, tmp_path / "none", teacher, decoding_processes=0)
    run(images, tmp_path / "two", teacher, decoding_processes=2)
    assert shard_bytes(tmp_path / "none") == shard_bytes(tmp_path / "two")


def test_a_worker_that_runs_out_does_the_rest(images: ImageList, teacher: TimmTeacher, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = run(
        images, tmp_path / "maps", teacher, worker=Worker(1, 2), on_progress=lambda p: seen.append((p.done, p.total))
    )
    assert (report.shards_written, report.complete, report.stopped) == (4, True, False)
    assert (seen[0], seen[-1]) == ((2, 8), (18, 18))  # its share are rows 5-9 and 15-17
    assert verify(tmp_path / "maps").ok


def test_other_number_of_classes(images: ImageList, tmp_path: Path) -> None:
    with pytest.raises(ImagesError, match="expected 7 classes.*found 3 class folders.*--class-map"):
        run(images, tmp_path / "maps", TimmTeacher(replace(SPEC, num_classes=7)))
    assert not (tmp_path / "maps").exists()


def test_a_teacher_that_has_other_classes_too(images: ImageList, tmp_path: Path) -> None:
    """What is stored of a class is the map of its output; predictions are outputs, too."""
    outputs = [5, 0, 3]
    teacher = TimmTeacher(replace(SPEC, num_classes=7))
    report = run(images, tmp_path / "maps", teacher, teacher_class=outputs)
    maps = MapStore(tmp_path / "maps")
    assert maps.header.teacher_class.tolist() == outputs
    assert maps.labels.tolist() == images.labels.tolist()
    expected = [outputs[label] for label in images.labels]
    assert report.progress.confusion.judged == 18
    assert report.progress.confusion.correct == sum(maps.predictions == expected)
    decoder = Decoder(images, teacher.preprocessing)
    for row in (0, 7, 17):
        sample = decoder[row]
        assert sample.pixels is not None
        direct = teacher.model(teacher.normalise(sample.pixels[None]))[0].detach()
        logit = float(maps.read([row]).astype(np.float32).mean())
        assert math.isclose(logit, float(direct[expected[row]]), rel_tol=2e-3, abs_tol=2e-3)
        assert int(maps.predictions[row]) == int(direct.argmax())
    with pytest.raises(StoreMismatch, match=r"dataset\.teacher_class: stored \[5, 0, 3\], given \[5, 0, 4\]"):
        run(images, tmp_path / "maps", teacher, teacher_class=[5, 0, 4])


def test_maps_without_classes_are_not_judged(images: ImageList, tmp_path: Path) -> None:
    teacher = TimmTeacher(replace(SPEC, num_classes=7, kind="activation"))
    report = run(images, tmp_path / "maps", teacher, teacher_class=())
    assert report.complete
    assert report.progress.confusion.judged == 0
    assert math.isnan(report.progress.top1)


def test_an_unreadable_image_is_a_row_with_its_reason(images: ImageList, teacher: TimmTeacher, tmp_path: Path) -> None:
    (images.root / images.keys[7]).write_bytes(b"\xff\xd8\xff garbage")
    report = run(images, tmp_path / "maps", teacher)  # 0.1 % of 18, rounded up: one may fail
    assert [key for key, _ in report.progress.errors] == [images.keys[7]]
    maps = MapStore(tmp_path / "maps")
    assert np.flatnonzero(maps.statuses == STATUS_UNREADABLE).tolist() == [7]
    assert not maps.read([7]).any()
    assert maps.predictions[7] == -1
    assert maps.errors[7] == "no image format that Pillow knows"
    assert verify(tmp_path / "maps").ok


def test_too_many_unreadable_images_fail_but_keep_the_rest(
    images: ImageList, teacher: TimmTeacher, tmp_path: Path
) -> None:
    for row in (7, 12):
        (images.root / images.keys[row]).write_bytes(b"")
    with pytest.raises(ImagesError, match=r"at most 1 unreadable.*found 2(.|\n)*dog/1.jpg(.|\n)*eel/1.jpg"):
        run(images, tmp_path / "maps", teacher)
    assert sorted(shard_bytes(tmp_path / "maps")) == ["shard-00000.h5", "shard-00001.h5"]
    assert run(images, tmp_path / "maps", teacher, max_errors=2).complete


@pytest.mark.parametrize("workers", [0, 2])
def test_a_vanished_image_stops_the_job(workers: int, images: ImageList, teacher: TimmTeacher, tmp_path: Path) -> None:
    (images.root / images.keys[12]).unlink()
    with pytest.raises(ImagesError, match="eel/1.jpg.*No such file.*check the mount"):
        run(images, tmp_path / "maps", teacher, decoding_processes=workers, max_errors=99)
    assert sorted(shard_bytes(tmp_path / "maps")) == ["shard-00000.h5", "shard-00001.h5"]


class Wrapped:
    """The real teacher, to change what one method does."""

    def __init__(self, teacher: TimmTeacher):
        self.teacher, self.calls = teacher, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.teacher, name)


class Killing(Wrapped):
    """While it computes the second batch, all decoding processes are killed, as for their memory."""

    def start(self, pixels: torch.Tensor, outputs: torch.Tensor, dtype: torch.dtype) -> Pending:
        self.calls += 1
        if self.calls == 2:
            for process in multiprocessing.active_children():
                process.kill()
        return self.teacher.start(pixels, outputs, dtype)


def test_a_decoding_process_that_dies(images: ImageList, teacher: TimmTeacher, tmp_path: Path) -> None:
    with pytest.raises(ExtractError, match=f"{images.root}: expected decoding processes.*ended with -9.*--workers"):
        run(images, tmp_path / "maps", Killing(teacher), decoding_processes=2)  # type: ignore[arg-type]
    assert run(images, tmp_path / "maps", teacher).complete


class Panic(BaseException):
    """As libraries in Rust raise it."""


def panic() -> None:
    raise Panic


def slow_exit() -> None:
    """Files are closed a good while before there is an exit status, as on a busy machine."""
    os.closerange(3, 1024)
    time.sleep(0.5)
    os._exit(3)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "-11"), (lambda: os._exit(0), "0"), (panic, "1"),
        (slow_exit, "3"),
    ],
    ids=["crash", "exit", "panic", "slow exit"],
)  # fmt: skip
def test_an_image_that_ends_its_decoding_process_is_named(
    end: Callable[[], None],
    code: str,
    images: ImageList,
    teacher: TimmTeacher,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decode = Decoder.decode

    def deadly(self: Decoder, row: int, data: bytes) -> Sample:
        if row == 7:
            end()
        return decode(self, row, data)

    monkeypatch.setattr(Decoder, "decode", deadly)
    with pytest.raises(ExtractError, match=f"ended with {code} and had {images.keys[7]!r} in hand; check that file"):
        run(images, tmp_path / "maps", teacher, decoding_processes=2)


class Failing(Wrapped):
    """Its second batch fails as torch's errors do."""

    def start(self, pixels: torch.Tensor, outputs: torch.Tensor, dtype: torch.dtype) -> Pending:
        self.calls += 1
        if self.calls == 2:
            raise RuntimeError("DataLoader worker: so it says")
        return self.teacher.start(pixels, outputs, dtype)


def test_other_errors_of_torch_stay_what_they_are(images: ImageList, teacher: TimmTeacher, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="so it says"):
        run(images, tmp_path / "maps", Failing(teacher), decoding_processes=2)  # type: ignore[arg-type]


class Breaking(Wrapped):
    """Its map of one row is replaced."""

    def __init__(self, teacher: TimmTeacher, value: float):
        super().__init__(teacher)
        self.value = value

    def start(self, pixels: torch.Tensor, outputs: torch.Tensor, dtype: torch.dtype) -> Pending:
        self.calls += 1
        maps = self.teacher.start(pixels, outputs, dtype).result()
        logits = maps.payload["label_logit"].clone()
        if self.calls == 4:  # rows 5 and 6: the second shard begins
            logits[1, 0, 0] = self.value
        return Pending(Maps({"label_logit": logits}, maps.prediction))


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (math.nan, "nan.*--amp none"),
        (-math.inf, "-inf.*--amp none"),
        (7e4, "65504.*inf.*--dtype float32"),
    ],
)
def test_maps_that_cannot_be_stored(
    value: float, match: str, images: ImageList, teacher: TimmTeacher, tmp_path: Path
) -> None:
    with pytest.raises(TeacherError, match=match) as caught:
        run(images, tmp_path / "maps", Breaking(teacher, value))  # type: ignore[arg-type]
    assert repr(images.keys[6]) in str(caught.value)
    assert list(shard_bytes(tmp_path / "maps")) == ["shard-00000.h5"]
    assert run(images, tmp_path / "maps", teacher).complete


def test_float32_holds_what_float16_cannot(images: ImageList, teacher: TimmTeacher, tmp_path: Path) -> None:
    run(images, tmp_path / "maps", Breaking(teacher, 7e4), dtype="float32")  # type: ignore[arg-type]
    assert MapStore(tmp_path / "maps").read([6]).max() == np.float32(7e4)


def test_uint8_is_float32_to_half_a_step(images: ImageList, teacher: TimmTeacher, tmp_path: Path) -> None:
    run(images, tmp_path / "exact", teacher, dtype="float32")
    run(images, tmp_path / "maps", teacher, dtype="uint8")
    exact, found = (MapStore(tmp_path / name).read(range(18)) for name in ("exact", "maps"))
    assert found.dtype == np.float32
    assert (np.abs(found - exact) <= np.ptp(exact, axis=(1, 2), keepdims=True) / 509).all()
    with pytest.raises(TeacherError, match=r"at most 65504 \(uint8\).*--dtype float32"):
        run(images, tmp_path / "beyond", Breaking(teacher, 7e4), dtype="uint8")  # type: ignore[arg-type]


@pytest.mark.parametrize("precious", ["maps", "maps/precious.txt"])
def test_a_path_that_is_no_store(precious: str, images: ImageList, teacher: TimmTeacher, tmp_path: Path) -> None:
    (tmp_path / precious).parent.mkdir(exist_ok=True)
    (tmp_path / precious).write_text("x")
    with pytest.raises(StoreError, match="not a store"):
        run(images, tmp_path / "maps", teacher)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_no_space_left(images: ImageList, teacher: TimmTeacher, small_disk: Path, tmp_path: Path) -> None:
    run(images, tmp_path / "alone", teacher)
    shard = len(shard_bytes(tmp_path / "alone")["shard-00000.h5"])
    free = shutil.disk_usage(small_disk).free
    (small_disk / "ballast").write_bytes(bytes(free - 5 * shard // 2))  # two shards and the header, not more
    with pytest.raises((StoreError, OSError), match="[Nn]o space left"):
        run(images, small_disk / "maps", teacher)
    published = shard_bytes(small_disk / "maps")
    assert 0 < len(published) < 4
    assert not list((small_disk / "maps").glob("*.tmp"))
    (small_disk / "ballast").unlink()
    assert run(images, small_disk / "maps", teacher).complete
    assert verify(small_disk / "maps").ok
    assert published.items() <= shard_bytes(small_disk / "maps").items()
    assert shard_bytes(small_disk / "maps") == shard_bytes(tmp_path / "alone")


def test_a_folder_that_becomes_read_only(
    images: ImageList, teacher: TimmTeacher, small_disk: Path, tmp_path: Path
) -> None:
    def remount(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", small_disk], check=True)

    run(images, tmp_path / "alone", teacher)
    run(images, small_disk / "maps", teacher)
    (small_disk / "maps" / "shard-00001.h5").unlink()
    remount("ro")
    with pytest.raises(OSError, match="Read-only file system"):
        run(images, small_disk / "maps", teacher)
    remount("rw")
    assert run(images, small_disk / "maps", teacher).shards_written == 1
    assert shard_bytes(small_disk / "maps") == shard_bytes(tmp_path / "alone")


# Children fork from a server that has imported torch and timm once: a start costs milliseconds, not seconds.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["extract.job.run"])


def job_in_a_child(root: Path, store: Path, progress: Connection) -> None:
    def note(state: Progress) -> None:
        progress.send(state.done)
        time.sleep(0.05)

    torch.set_num_threads(1)
    with stop_on_signals() as stop:
        report = run(list_images(root), store, TimmTeacher(SPEC), decoding_processes=2, on_progress=note, stop=stop)
    sys.exit(stop.exit_code if report.stopped else 0)


def start_child(images: ImageList, store: Path, after: int) -> Any:
    """A job in its own process that has just done `after` images."""
    here, there = FORKS.Pipe(duplex=False)
    child = FORKS.Process(target=job_in_a_child, args=(images.root, store, there))
    child.start()
    there.close()
    while here.recv() < after:
        pass
    return child


@pytest.mark.parametrize("after", [2, 6, 11, 16])
def test_sigkill_costs_the_shard_in_flight_only(
    after: int, images: ImageList, teacher: TimmTeacher, tmp_path: Path
) -> None:
    run(images, tmp_path / "alone", teacher)
    child = start_child(images, tmp_path / "maps", after)
    child.kill()
    child.join()
    finished = shard_bytes(tmp_path / "maps")
    assert len(finished) >= after // 5 - 1
    assert finished.items() <= shard_bytes(tmp_path / "alone").items()
    assert run(images, tmp_path / "maps", teacher).complete
    assert shard_bytes(tmp_path / "maps") == shard_bytes(tmp_path / "alone")
    assert verify(tmp_path / "maps").problems == ()  # nor are there left-over files


def test_started_twice_at_once(images: ImageList, teacher: TimmTeacher, tmp_path: Path) -> None:
    """The same job, by mistake or on purpose: both end well, and share the work."""
    run(images, tmp_path / "alone", teacher)
    _unread, progress = FORKS.Pipe(duplex=False)
    arguments = (images.root, tmp_path / "maps", progress)
    children = [FORKS.Process(target=job_in_a_child, args=arguments) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert shard_bytes(tmp_path / "maps") == shard_bytes(tmp_path / "alone")
    assert verify(tmp_path / "maps").problems == ()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_stop_signals_end_with_their_status(
    number: signal.Signals, code: int, images: ImageList, tmp_path: Path
) -> None:
    child = start_child(images, tmp_path / "maps", after=2)
    os.kill(child.pid, number)
    child.join()
    assert child.exitcode == code
    assert not list((tmp_path / "maps").glob("*.tmp"))


def test_progress_counts(images: ImageList, teacher: TimmTeacher, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    run(images, tmp_path / "maps", teacher, on_progress=lambda p: seen.append((p.done, p.total)))
    assert seen[-1] == (18, 18)
    assert [done for done, _ in seen] == [2, 4, 5, 7, 9, 10, 12, 14, 15, 17, 18]
    assert math.isnan(Progress(3).top1)
