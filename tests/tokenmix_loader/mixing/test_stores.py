"""Rows of one store mean nothing in another, and labels alone do not tell them apart."""

import re
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader
from torchvision import transforms as tv
from torchvision.datasets import ImageFolder

from store import Header, StoreMismatch
from tests.tokenmix_loader.conftest import StoreMaker, keys_and_labels
from tokenmix_loader import MapDataset, MapJoin, MapStore, TokenMix, TokenMixCollate, read_tokens

PIXELS = tv.Compose([tv.Resize((12, 12)), tv.PILToTensor()])
SETTINGS: dict[str, Any] = {"num_classes": 3, "grid": (6, 6), "min_tokens": 4}


@pytest.fixture
def stores(images: Path, make_store: StoreMaker) -> tuple[MapStore, MapStore]:
    """The same keys and labels, read by two teachers."""
    rows = keys_and_labels(images)
    return make_store(rows), make_store(rows, teacher={"name": "another", "classes": 3})


def batches(images: Path, stores: tuple[MapStore, ...], **options: Any) -> Iterator[Any]:
    dataset: ConcatDataset[Any] = ConcatDataset([MapDataset(ImageFolder(images), store, PIXELS) for store in stores])
    return iter(DataLoader(dataset, 8, **options))


@pytest.mark.parametrize("settings", [{}, {"switch_prob": 0.0}, {"supervision": "area"}, {"prob": 0.0}])
def test_a_batch_with_rows_of_another_store_is_refused(
    images: Path, stores: tuple[MapStore, MapStore], settings: dict[str, Any]
) -> None:
    """In every batch, whether maps are read for it or not, and both stores are named."""
    one, other = stores
    message = re.escape(f"{one}: expected rows of this store, found those of {other} for 8 of 8 images")
    collate = TokenMixCollate(one, **SETTINGS | settings)
    mix = TokenMix(one, rng=np.random.default_rng(0), **SETTINGS | settings)
    for store, refused in ((one, nullcontext()), (other, pytest.raises(StoreMismatch, match=message))):
        _, targets = next(batches(images, (store,)))
        with refused:
            collate(next(batches(images, (store,), collate_fn=list)))
        with refused:
            mix(torch.zeros(8, 3, 12, 12), targets)


def test_mixed_batches_are_refused(images: Path, stores: tuple[MapStore, MapStore]) -> None:
    *_, middle = [targets for (_, targets), _ in zip(batches(images, stores), range(4), strict=False)]  # rows 24 to 32
    for store, count in zip(stores, (2, 6), strict=True):
        with pytest.raises(StoreMismatch, match=f"for {count} of 8 images"):
            read_tokens(store, middle, (6, 6))


def test_it_is_refused_in_a_worker(images: Path, stores: tuple[MapStore, MapStore]) -> None:
    with pytest.raises(StoreMismatch, match="expected rows of this store"):
        [*batches(images, stores, num_workers=1, collate_fn=TokenMixCollate(stores[0], **SETTINGS))]


def test_a_copy_of_the_store_is_the_same_store(images: Path, make_store: StoreMaker, tmp_path: Path) -> None:
    store = make_store(keys_and_labels(images))
    shutil.copytree(store._folder, tmp_path / "copy")
    targets = next(batches(images, (store,)))[1]
    assert torch.equal(read_tokens(MapStore(tmp_path / "copy"), targets, (6, 6)), read_tokens(store, targets, (6, 6)))


def test_images_without_a_map_are_of_no_store(images: Path, make_store: StoreMaker) -> None:
    rows = keys_and_labels(images)
    few = make_store(dict([*rows.items()][8:]))
    targets = next(iter(DataLoader(MapDataset(ImageFolder(images), few, PIXELS, missing="area"), 8)))[1]
    assert (targets.row == -1).all()
    assert not read_tokens(make_store(rows, teacher={"name": "another", "classes": 3}), targets, (6, 6)).any()


def test_a_stream_knows_its_store_too(images: Path, stores: tuple[MapStore, MapStore]) -> None:
    key, label = next(iter(keys_and_labels(images).items()))
    _, target = MapJoin(stores[0], PIXELS)(Image.open(images / key).convert("RGB"), label, key)
    batch = torch.utils.data.default_collate([target])
    read_tokens(stores[0], batch, (6, 6))
    with pytest.raises(StoreMismatch, match="expected rows of this store"):
        read_tokens(stores[1], batch, (6, 6))


def test_rows_keep_their_store_when_it_is_extended(make_store: StoreMaker) -> None:
    before = make_store({f"{i}.jpg": 0 for i in range(20)}).header
    extended = Header(
        **{name: getattr(before, name) for name in Header.__dataclass_fields__}
        | {"rows": 30, "dataset": {**before.dataset, "digest": "e" * 64}, "earlier": ((20, before.dataset["digest"]),)}
    )
    old, new = before.identities([0, 19]), extended.identities([0, 19, 20, 29])
    assert old[0] == old[1] == new[0] == new[1]
    assert new[2] == new[3] != new[0]
    assert int(new[2]) % 2**64 == int(extended.content_digest[:16], 16)
