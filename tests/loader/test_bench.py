from pathlib import Path

import pytest

from tests.loader.conftest import StoreMaker, keys_and_labels
from tokenmix_loader.bench import bench


@pytest.mark.parametrize("workers", [0, 1])
def test_costs_are_of_the_right_size(images: Path, make_store: StoreMaker, workers: int) -> None:
    report = bench(images, make_store(keys_and_labels(images)), samples=24, batch=8, workers=workers, rounds=1)
    assert report.images == 30
    for cost in (report.without_maps, report.with_maps):
        assert 0.1 < cost.cpu_ms < 1000
        assert 0.1 < cost.wall_ms < 1000
    assert report.epoch_s == pytest.approx([0.03 * cost.wall_ms for cost in (report.without_maps, report.with_maps)])


def test_fewer_images_than_a_batch(images: Path, make_store: StoreMaker) -> None:
    report = bench(images, make_store(keys_and_labels(images)), batch=64, workers=0, rounds=1)
    assert report.images == 30
