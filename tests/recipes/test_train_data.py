"""What a training is fed: the same batches for any number of processes, labels by name, every kind of mask."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from recipes.train.data import EpochBatches, ListedImages, TrainingData, find_classes, open_training, open_validation
from recipes.train.processes import Processes
from recipes.train.settings import Settings, TrainingError
from recipes.train.students import create_student
from tests.recipes.test_train import HERE, SMALL, Digits, _one_thread, digits, run
from tokenmix_loader import MapStore
from tokenmix_loader.mixing.settings import GUIDED
from tokenmix_loader.scoring.masks import KINDS

__all__ = ["_one_thread", "digits"]  # fixtures


def opened(digits: Digits, settings: Settings, processes: Processes = HERE, workers: int = 0) -> TrainingData:
    store = MapStore(digits.maps)
    classes = find_classes(store, None, settings)
    return open_training(digits.images, store, classes, create_student(settings, 10), settings, processes, workers)


def test_an_epoch_is_the_same_for_any_workers_and_another_one_next_time(digits: Digits) -> None:
    def epoch(number: int, workers: int, *, mixed: bool = True, **changed: Any) -> torch.Tensor:
        settings = replace(SMALL, model="small_cnn", reprob=0.0, **changed)
        batches = opened(digits, settings, workers=workers).of_epoch(number, mixed=mixed)
        return torch.cat([images for images, _ in batches])

    assert torch.equal(epoch(1, 0), epoch(1, 2))
    plain = epoch(0, 0, mixed=False)
    assert not torch.equal(plain, epoch(1, 0, mixed=False))
    assert not torch.equal(plain, epoch(0, 0, mixed=False, seed=1))
    assert not torch.equal(plain, epoch(0, 0))


def test_mixing_ends_where_asked(digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(SMALL, model="small_cnn", mixup_off_epoch=1)
    data = opened(digits, settings)
    for mixed in (True, False):
        targets = torch.cat([targets for _, targets in data.of_epoch(0, mixed=mixed)])
        assert bool(((targets > 0.02).sum(dim=1) > 1).any()) is mixed
    asked: list[bool] = []
    of_epoch = TrainingData.of_epoch

    def recorded(data: TrainingData, epoch: int, *, mixed: bool) -> Any:
        asked.append(mixed)
        return of_epoch(data, epoch, mixed=mixed)

    monkeypatch.setattr(TrainingData, "of_epoch", recorded)
    run(digits, tmp_path, settings)
    assert asked == [True, False]


def test_each_process_validates_its_own_share(digits: Digits) -> None:
    classes = find_classes(MapStore(digits.maps), None, SMALL)
    student = create_student(SMALL, 10)

    def labels(rank: int, count: int) -> list[int]:
        batches = open_validation(digits.images, classes, student, SMALL, Processes(HERE.device, rank, count), 0)
        return torch.cat([labels for _, labels in batches]).tolist()

    shares = [labels(rank, 7) for rank in range(7)]
    assert {len(share) for share in shares} == {8, 9}
    assert sorted(chain(*shares)) == sorted(labels(0, 1))


def test_processes_share_an_epoch() -> None:
    settings = replace(SMALL, batch_size=20)
    alone = list(EpochBatches(70, settings, HERE))
    shares = [list(EpochBatches(70, settings, Processes(HERE.device, rank, 2))) for rank in (0, 1)]
    assert [len(batch) for batch in alone] == [20, 20, 20]
    assert [one + other for one, other in zip(*shares, strict=True)] == alone
    assert len({index for batch in alone for _, index in batch}) == 60
    parts = list(EpochBatches(70, replace(settings, accumulate=2), HERE))
    assert [part for batch in zip(*shares, strict=True) for part in batch] == parts


def test_class_map_orders_the_outputs(digits: Digits, tmp_path: Path) -> None:
    names = tmp_path / "classes.txt"
    names.write_text("".join(f"{name},{2 * (9 - name)}\n" for name in range(10)))
    settings = replace(SMALL, model="small_cnn", mix_prob=0.0, smoothing=0.0, aa="none")
    store = MapStore(digits.maps)
    classes = find_classes(store, names, settings)
    assert (list(classes.outputs), classes.count) == ([18, 16, 14, 12, 10, 8, 6, 4, 2, 0], 19)
    student = create_student(settings, classes.count)
    data = open_training(digits.images, store, classes, student, settings, HERE, 0)
    trained = torch.cat([targets for _, targets in data.of_epoch(0, mixed=True)])
    assert trained.shape == (60, 19)
    counts = np.bincount(store.labels, minlength=10)
    assert trained.sum(dim=0)[::2].tolist() == counts[::-1].tolist()
    validated = torch.cat([labels for _, labels in open_validation(digits.images, classes, student, settings, HERE, 0)])
    assert torch.bincount(validated)[::2].tolist() == counts[::-1].tolist()
    for supervision in ("relabel", "tokenlabeling"):
        with pytest.raises(TrainingError, match="--class-map: expected none with"):
            find_classes(store, names, replace(settings, supervision=supervision))


def test_validation_goes_by_the_names_of_classes(digits: Digits, tmp_path: Path) -> None:
    """A folder that lacks some classes must not count the others from 0."""
    for name in ("3", "7"):
        (tmp_path / "some" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "some" / name / "image.png")
    classes = find_classes(MapStore(digits.maps), None, SMALL)
    images = ListedImages(tmp_path / "some", classes, lambda image: image)
    assert [label for _, label in (images[0], images[1])] == [3, 7]
    (tmp_path / "some" / "7" / "image.png").write_bytes(b"broken")
    with pytest.raises(OSError, match=r"--val 7/image\.png: expected an image"):
        images[1]
    (tmp_path / "some" / "7").rename(tmp_path / "some" / "seven")
    with pytest.raises(TrainingError, match=r"expected classes of the training images.*1 others, such as 'seven'"):
        ListedImages(tmp_path / "some", classes, None)


@pytest.mark.parametrize("kind", ["cutmix", *KINDS, *GUIDED])
def test_every_kind_of_mask_trains(digits: Digits, kind: str) -> None:
    settings = replace(SMALL, model="small_cnn", img_size=64, grid=8, mask_kind=kind, mixup=0.0, batch_size=20)
    data = opened(digits, settings)
    _, targets = next(iter(data.of_epoch(0, mixed=True)))
    assert targets.shape == (20, 10)
    assert ((targets > 0.02).sum(dim=1) > 1).any()  # labels were mixed
