"""A second call goes on where the first stopped, or says why it cannot: what a store is compared with."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extract.images.image_list import ImageList
from extract.images.listing import list_images
from extract.settings.worker import Worker
from extract.teacher.timm_teacher import TimmTeacher
from store import MapStore, StoreMismatch, verify
from tests.extract.jobs import SPEC, run, shard_bytes


def test_resume_reads_only_what_is_missing(images: ImageList, teacher: TimmTeacher, tmp_path: Path) -> None:
    run(images, tmp_path / "maps", teacher)
    before = shard_bytes(tmp_path / "maps")
    (tmp_path / "maps" / "shard-00002.h5").unlink()
    for row in [*range(10), *range(15, 18)]:
        (images.root / images.keys[row]).unlink()  # would be noticed if decoded again
    report = run(images, tmp_path / "maps", teacher)
    assert (report.shards_written, report.progress.done, report.progress.errors) == (1, 5, [])
    assert shard_bytes(tmp_path / "maps") == before
    assert run(images, tmp_path / "maps", teacher).progress.done == 0


def test_stop_drops_the_shard_in_flight_and_resume_completes(
    images: ImageList, teacher: TimmTeacher, tmp_path: Path
) -> None:
    run(images, tmp_path / "alone", teacher)
    seen: list[int] = []
    note: dict[str, Any] = {"on_progress": lambda p: seen.append(p.done), "stop": lambda: max(seen, default=0) >= 7}
    report = run(images, tmp_path / "maps", teacher, **note)
    assert report.stopped
    assert not report.complete
    assert list(shard_bytes(tmp_path / "maps")) == ["shard-00000.h5"]
    assert not list((tmp_path / "maps").glob("*.tmp"))
    assert run(images, tmp_path / "maps", teacher).complete
    assert shard_bytes(tmp_path / "maps") == shard_bytes(tmp_path / "alone")


OTHER_INPUT = {"input_size": (96, 96)}


@pytest.mark.parametrize(
    ("field", "change", "options"),
    [
        ("teacher.name: stored 'test_resnet', given 'test_efficientnet'", {"name": "test_efficientnet"}, {}),
        ("teacher.digest: stored '[0-9a-f]{32}', given '[0-9a-f]{32}'", {"random_weights": 1}, {}),
        ("teacher.amp: stored 'none', given 'bf16'", {"amp": "bf16"}, {}),
        ("teacher.flip_average: stored False, given True", {"flip_average": True}, {}),
        ("teacher.model_args.output_stride: stored '.absent.', given 8", {"model_args": {"output_stride": 8}}, {}),
        (r"preprocessing.input_size: stored \[64, 64\], given \[96, 96\]", OTHER_INPUT, {}),
        (r"grid: stored \[2, 2\], given \[3, 3\]", OTHER_INPUT, {}),
        ("preprocessing.crop_mode: stored 'center', given 'squash'", {"crop_mode": "squash"}, {}),
        ("preprocessing.crop_pct: stored 0.95, given 0.5", {"crop_pct": 0.5}, {}),
        ("kind: stored 'label', given 'topk'", {"kind": "topk", "top_k": 2}, {}),
        ("depth: stored 1, given 2", {"kind": "topk", "top_k": 2}, {}),
        ("dtype: stored 'float16', given 'float32'", {}, {"dtype": "float32"}),
        ("dtype: stored 'float16', given 'uint8'", {}, {"dtype": "uint8"}),
        ("shard_rows: stored 5, given 6", {}, {"shard_rows": 6}),
    ],
)
def test_another_configuration_is_refused(
    field: str, change: dict[str, Any], options: dict[str, Any], images: ImageList, teacher: TimmTeacher, tmp_path: Path
) -> None:
    run(images, tmp_path / "maps", teacher, stop=lambda: True)  # leaves a header
    (tmp_path / "maps" / "shard-00000.h5").write_bytes(b"not to be touched")
    with pytest.raises(StoreMismatch, match=f"\n  {field}"):
        run(images, tmp_path / "maps", TimmTeacher(replace(SPEC, **change)) if change else teacher, **options)
    assert shard_bytes(tmp_path / "maps") == {"shard-00000.h5": b"not to be touched"}


def test_another_batch_size_and_number_of_workers_resume(
    images: ImageList, teacher: TimmTeacher, tmp_path: Path
) -> None:
    """Bytes are those of one batch size; another rounds the teacher's sums otherwise."""
    run(images, tmp_path / "alone", teacher)
    run(images, tmp_path / "maps", teacher)
    for shard in (1, 3):
        (tmp_path / "maps" / f"shard-{shard:05d}.h5").unlink()
    assert run(images, tmp_path / "maps", teacher, batch_size=3, decoding_processes=2, worker=Worker(1, 2)).complete
    assert verify(tmp_path / "maps").ok
    alone, maps = MapStore(tmp_path / "alone"), MapStore(tmp_path / "maps")
    assert list(maps.keys) == list(alone.keys)
    for column in ("labels", "predictions", "sizes", "statuses"):
        np.testing.assert_array_equal(getattr(maps, column), getattr(alone, column))
    np.testing.assert_array_equal(maps.views(range(18)), alone.views(range(18)))
    exact = alone.read(range(18)).astype(np.float32)
    np.testing.assert_allclose(maps.read(range(18)), exact, atol=2**-10 * float(np.abs(exact).max()))


def test_an_empty_store_of_another_configuration_says_so(
    images: ImageList, teacher: TimmTeacher, tmp_path: Path
) -> None:
    run(images, tmp_path / "maps", teacher)
    for shard in (tmp_path / "maps").glob("shard-*"):
        shard.unlink()
    with pytest.raises(StoreMismatch, match="holds no shard yet: remove the folder"):
        run(images, tmp_path / "maps", teacher, dtype="float32")


def test_what_is_no_file_is_no_shard(images: ImageList, teacher: TimmTeacher, tmp_path: Path) -> None:
    run(images, tmp_path / "maps", teacher)
    shard = tmp_path / "maps" / "shard-00001.h5"
    shard.unlink()
    shard.symlink_to(tmp_path / "gone")
    assert run(images, tmp_path / "maps", teacher).progress.done == 5
    assert verify(tmp_path / "maps").ok


def test_another_image_folder_is_refused(images: ImageList, teacher: TimmTeacher, tmp_path: Path) -> None:
    run(images, tmp_path / "maps", teacher)
    (images.root / "cat" / "0.jpg").rename(images.root / "cat" / "00.jpg")
    with pytest.raises(StoreMismatch, match="dataset.digest"):
        run(list_images(images.root), tmp_path / "maps", teacher)


def test_a_moved_image_folder_resumes(images: ImageList, teacher: TimmTeacher, tmp_path: Path) -> None:
    run(images, tmp_path / "maps", teacher)
    (tmp_path / "maps" / "shard-00002.h5").unlink()
    moved = images.root.rename(tmp_path / "elsewhere")
    assert run(list_images(moved), tmp_path / "maps", teacher).complete
