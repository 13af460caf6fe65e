import os
import shutil
import subprocess
from pathlib import Path

import pytest

from extract.images.listing import list_images
from store import StoreError
from tests.tokenmix_loader.conftest import StoreMaker, keys_and_labels
from tokenmix_loader.bench import bench, drop_page_cache
from tokenmix_loader.figures.show import draw_pairs


@pytest.mark.parametrize("workers", [0, 1])
def test_costs_are_of_the_right_size(images: Path, make_store: StoreMaker, tmp_path: Path, workers: int) -> None:
    make_store(keys_and_labels(images))
    report = bench(list_images(images), *tmp_path.iterdir(), samples=24, batch=8, workers=workers, rounds=1)
    assert report.images == 30
    for cost in report[1:]:
        assert 0.1 < cost.cpu_ms < 1000
        assert 0.1 < cost.wall_ms < 1000
    assert report.epoch_s == pytest.approx([0.03 * cost.wall_ms for cost in report[1:]])


def test_fewer_images_than_a_batch(images: Path, make_store: StoreMaker, tmp_path: Path) -> None:
    make_store(keys_and_labels(images))
    report = bench(list_images(images), *tmp_path.iterdir(), batch=64, workers=0, rounds=1)
    assert report.images == 30


def test_images_that_were_unreadable_are_left_out(images: Path, make_store: StoreMaker, tmp_path: Path) -> None:
    """They are in the dataset, and warned of, but no epoch would get past them."""
    broken = tmp_path / "images"
    shutil.copytree(images, broken)
    (broken / "ant" / "img2.jpg").write_bytes(b"")
    make_store(keys_and_labels(images), unreadable=("ant/img2.jpg",))
    (store,) = tmp_path.glob("maps-*")
    with pytest.warns(UserWarning, match=r"1 that could not be read at extraction: ant/img2\.jpg"):
        report = bench(list_images(broken), store, batch=8, workers=0, rounds=1)
    assert report.images == 30


def test_forgotten_pages_are_no_longer_in_memory(images: Path, make_store: StoreMaker, tmp_path: Path) -> None:
    fincore = shutil.which("fincore")
    if fincore is None:
        pytest.skip("needs util-linux's fincore")
    make_store(keys_and_labels(images))
    (folder,) = tmp_path.iterdir()
    shards = sorted(folder.glob("*.h5"))
    for shard in shards:
        with open(shard, "rb") as file:
            file.read()
            os.fsync(file.fileno())

    def in_memory() -> int:
        done = subprocess.run([fincore, "-bno", "RES", *shards], capture_output=True, text=True, check=True)
        return sum(map(int, done.stdout.split()))

    assert in_memory() > 0
    drop_page_cache(folder)
    assert in_memory() == 0


class _Broken:
    def __init__(self, **_: object) -> None:
        """Takes what timm's takes."""

    def __call__(self, _: object) -> None:
        raise StoreError("maps: gone")


@pytest.mark.parametrize("workers", [0, 1])
def test_what_mixing_raises_is_said_without_a_traceback(
    workers: int, images: Path, make_store: StoreMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch would put "Caught StoreError in DataLoader worker process 0" and a traceback before it."""
    make_store(keys_and_labels(images))
    monkeypatch.setattr("tokenmix_loader.bench.FastCollateMixup", _Broken)
    with pytest.raises(StoreError) as raised:
        bench(list_images(images), *tmp_path.iterdir(), batch=8, workers=workers, rounds=1)
    assert str(raised.value) == "maps: gone"


def test_one_image_has_no_partner(images: Path, make_store: StoreMaker, tmp_path: Path) -> None:
    make_store(keys_and_labels(images))
    with pytest.raises(StoreError, match="expected two images or more"):
        bench(list_images(images), *tmp_path.iterdir(), samples=1, workers=0, rounds=1)
    assert bench(list_images(images), *tmp_path.iterdir(), samples=3, workers=0, rounds=1).images == 30


def test_nothing_to_measure_or_to_draw(images: Path, make_store: StoreMaker, tmp_path: Path) -> None:
    make_store(keys_and_labels(images), unreadable=tuple(keys_and_labels(images)))
    (store,) = tmp_path.glob("maps-*")
    for command in (
        lambda: bench(list_images(images), store, workers=0),
        lambda: draw_pairs(list_images(images), store),
    ):
        with (
            pytest.warns(UserWarning, match="30 that could not be read at extraction"),
            pytest.raises(StoreError, match="expected images that could be read at extraction, found none; repair"),
        ):
            command()
