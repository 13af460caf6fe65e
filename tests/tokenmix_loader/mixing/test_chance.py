"""An epoch of the same batches draws other masks than the one before, whoever loads them."""

import gc
import logging
import pickle
from collections.abc import Sequence
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.data.loader import MultiEpochsDataLoader
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler
from torchvision import transforms as tv
from torchvision.datasets import ImageFolder

from tests.tokenmix_loader.conftest import StoreMaker, keys_and_labels
from tokenmix_loader import MapDataset, MapStore, TokenMixCollate
from tokenmix_loader.batch import MapTarget
from tokenmix_loader.mixing.chance import BatchChance

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # more than there are cores

Epochs = list[list[torch.Tensor]]
PIXELS = tv.Compose([tv.Resize((12, 12)), tv.PILToTensor()])


@pytest.fixture
def store(images: Path, make_store: StoreMaker) -> MapStore:
    return make_store(keys_and_labels(images))


@pytest.fixture
def dataset(images: Path, store: MapStore) -> MapDataset:
    return MapDataset(ImageFolder(images), store, PIXELS)


def make_collate(store: MapStore, seed: int = 0) -> TokenMixCollate:
    """Masks of many tokens, one for each image, so that no two are equal by chance."""
    return TokenMixCollate(store, (6, 6), num_classes=3, kind="random", per="sample", mixup_alpha=0, seed=seed)


def train(dataset: MapDataset, collate: TokenMixCollate, epochs: int, **options: Any) -> Epochs:
    """The pixels of each batch of each epoch; `DataLoader` does not shuffle unless asked to."""
    kind = options.pop("kind", DataLoader)
    loader = kind(dataset, 8, collate_fn=collate, **options)
    return [[pixels for pixels, _ in loader] for _ in range(epochs)]


def equal(one: Epochs, other: Epochs) -> bool:
    pairs = [pair for two in zip(one, other, strict=True) for pair in zip(*two, strict=True)]
    return all(torch.equal(a, b) for a, b in pairs)


def differ(epochs: Sequence[Sequence[torch.Tensor]]) -> bool:
    """Whether no batch was mixed as in any other epoch."""
    return not any(
        torch.equal(a, b)
        for i, one in enumerate(epochs)
        for other in epochs[:i]
        for a, b in zip(one, other, strict=True)
    )


WORKERS = (
    {"num_workers": 1},
    {"num_workers": 2},
    {"num_workers": 2, "persistent_workers": True},
    {"num_workers": 4},
    {"num_workers": 3, "persistent_workers": True},
    {"num_workers": 2, "kind": MultiEpochsDataLoader},
)


@pytest.mark.parametrize("workers", WORKERS, ids=str)
def test_repeated_epochs_are_drawn_anew_whoever_loads_them(
    dataset: MapDataset, store: MapStore, workers: dict[str, Any]
) -> None:
    alone = train(dataset, make_collate(store), 3)
    assert differ(alone)
    assert equal(train(dataset, make_collate(store), 3, **workers), alone)


def test_a_spawned_worker_counts_with_the_others(dataset: MapDataset, store: MapStore) -> None:
    """Sent as `spawn` sends it, in which memory is shared."""
    collate = make_collate(store)
    spawned = pickle.loads(ForkingPickler.dumps(collate))
    whole = train(dataset, make_collate(store), 2)
    assert equal(train(dataset, spawned, 1), whole[:1])
    assert equal(train(dataset, collate, 1), whole[1:])


def test_a_sampler_that_nobody_told_the_epoch(dataset: MapDataset, store: MapStore) -> None:
    """The order is shuffled once, and stays."""
    assert differ(train(dataset, make_collate(store), 2, sampler=DistributedSampler(dataset, 2, 0), num_workers=2))


@pytest.mark.parametrize("options", [{}, {"num_workers": 2}])
def test_batches_that_share_images(dataset: MapDataset, store: MapStore, options: dict[str, Any]) -> None:
    """Each begins with the same image, and is drawn anew all the same."""
    order = [0, *range(1, 8), 0, *range(8, 15), 0, *range(15, 22)]
    assert differ(train(dataset, make_collate(store), 3, sampler=order, **options))


def draws(chance: BatchChance, *batches: Sequence[int]) -> list[float]:
    """The first number of each batch's generator."""
    rows = [torch.tensor(batch) for batch in batches]
    return [chance.rng_of(MapTarget(row * 0, row, torch.zeros(len(row), 10), row * 0)).random() for row in rows]


@given(st.lists(st.permutations(range(5)), min_size=1, max_size=6, unique_by=tuple))
def test_batches_of_the_same_images_are_drawn_anew(orders: list[list[int]]) -> None:
    """Whatever comes first in an epoch, as long as each has a row of its own left to be counted at."""
    batches = [[*order, *range(5 + 6 * i, 11 + 6 * i)] for i, order in enumerate(orders)]
    chance = BatchChance(0, 5 + 6 * len(batches))
    drawn = draws(chance, *batches) + draws(chance, *batches[::-1]) + draws(chance, *batches)
    assert len(set(drawn)) == 3 * len(batches)


def test_a_batch_twice_within_an_epoch_is_drawn_twice() -> None:
    once, again = draws(BatchChance(0, 4), [0, 1], [0, 1])
    assert once != again


@pytest.mark.parametrize("rows", [[-1, -1], [2, -1], [2, 3]])
def test_where_each_epoch_is_said_all_batches_are_drawn_anew(rows: list[int]) -> None:
    """Those without any map, which are not counted, need it."""
    chance, drawn = BatchChance(0, 4), []
    for epoch in (0, 1, 0):
        chance.set_epoch(epoch)
        drawn += draws(chance, rows)
    assert drawn[0] == drawn[2] != drawn[1]


@pytest.mark.parametrize("options", [{}, {"num_workers": 2, "persistent_workers": True}])
def test_a_resumed_run_draws_as_one_that_was_not_disturbed(
    dataset: MapDataset, store: MapStore, options: dict[str, Any]
) -> None:
    whole = train(dataset, make_collate(store), 4)
    resumed = make_collate(store)
    resumed.set_epoch(2)
    assert equal(train(dataset, resumed, 2, **options), whole[2:])


def test_the_epoch_may_be_said_before_each_as_to_a_sampler(dataset: MapDataset, store: MapStore) -> None:
    collate = make_collate(store)
    loader = DataLoader(dataset, 8, collate_fn=collate, num_workers=2, persistent_workers=True)
    told = []
    for epoch in (0, 1, 2, 1):
        collate.set_epoch(epoch)
        told.append([pixels for pixels, _ in loader])
    whole = train(dataset, make_collate(store), 3)
    assert equal(told, [*whole, whole[1]])


def test_shuffled_epochs_resume_without_it(dataset: MapDataset, store: MapStore) -> None:
    """Each batch comes once, so what was counted before the stop says nothing about it."""
    sampler: DistributedSampler[Any] = DistributedSampler(dataset, 2, 0)
    runs: list[Epochs] = []
    for epochs in (range(3), range(2, 3)):
        collate = make_collate(store)
        runs.append([])
        for epoch in epochs:
            sampler.set_epoch(epoch)
            runs[-1] += train(dataset, collate, 1, sampler=sampler)
    assert equal(runs[0][2:], runs[1])
    assert differ(runs[0])


def test_the_seed_still_decides(dataset: MapDataset, store: MapStore) -> None:
    first, again, other = (train(dataset, make_collate(store, seed), 2) for seed in (0, 0, 1))
    assert equal(first, again)
    assert differ([*first, *other])


def test_a_pickled_collate_goes_on_where_it_was(dataset: MapDataset, store: MapStore) -> None:
    collate = make_collate(store)
    train(dataset, collate, 1)
    assert equal(train(dataset, pickle.loads(pickle.dumps(collate)), 1), train(dataset, make_collate(store), 2)[1:])


@pytest.mark.parametrize(("epoch", "error"), [(-1, ValueError), ("1", TypeError), (1.5, TypeError), (None, TypeError)])
def test_wrong_epochs_are_refused(store: MapStore, epoch: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"TokenMixCollate.set_epoch: epoch: expected"):
        make_collate(store).set_epoch(epoch)


class Fed(TokenMixCollate):
    """Has a name of its own in the log, where those of other tests may come by."""


class Unfed(TokenMixCollate):
    """The same."""


def test_a_collate_that_no_batch_reached_says_so(
    dataset: MapDataset, store: MapStore, caplog: pytest.LogCaptureFixture
) -> None:
    """With drop_last, a loader of fewer images than a batch runs an epoch of nothing, without a word of its own."""
    with caplog.at_level(logging.WARNING):
        for kind, batch_size in ((Fed, 8), (Unfed, 64)):
            collate = kind(store, (6, 6), num_classes=3, min_tokens=4)
            loader = DataLoader(dataset, batch_size, collate_fn=collate, drop_last=True, num_workers=1)
            assert len([*loader]) == len(loader) == len(dataset) // batch_size
            del collate, loader
            gc.collect()
    assert [
        text
        for text in caplog.messages
        if text.startswith("Unfed: expected batches, found none") and "drop_last" in text
    ]
    assert not [text for text in caplog.messages if text.startswith("Fed:")]
