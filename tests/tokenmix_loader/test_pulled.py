"""From a store to a training elsewhere: pushed, killed, pushed, pulled, killed, pulled, verified, trained from."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision import transforms as tv
from torchvision.datasets import ImageFolder

from store import StoreError, pull, push, verify
from tests.store.transfer.conftest import kill_after, kill_alone
from tests.tokenmix_loader.conftest import StoreMaker, keys_and_labels, small_blocks
from tokenmix_loader import MapDataset, MapStore, TokenMix

pytest_plugins = ["tests.store.transfer.s3_server"]


def trained(store: MapStore, images: Path) -> torch.Tensor:
    """The weights of a linear model after an epoch with TokenMix targets."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3 * 24 * 24, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    crop = tv.Compose([tv.RandomResizedCrop(24), tv.RandomHorizontalFlip(), tv.ToTensor()])
    mix = TokenMix(store, 3, (6, 6), rng=np.random.default_rng(0), **small_blocks({}))
    for pixels, targets in DataLoader(MapDataset(ImageFolder(images), store, crop), 10, shuffle=True):
        mixed, dense = mix(pixels, targets)
        loss = torch.nn.functional.cross_entropy(model(mixed.flatten(1)), dense)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model.weight.detach()


Kill = Callable[[float, str, str, str], object]  # so many seconds after the beginning of `push` or `pull` from, to


def check_all(url: str, images: Path, folder: Path, target: Path, kill: Kill) -> None:
    for seconds in (0.02, 0.1):
        kill(seconds, "push", str(folder), url)
    push(folder, url)
    for seconds in (0.02, 0.1):
        kill(seconds, "pull", url, str(target))
        if not target.exists():
            with pytest.raises(StoreError):
                MapStore(target)
    pull(url, target)
    assert verify(target).ok
    expected = trained(MapStore(folder), images)
    assert torch.equal(trained(MapStore(target), images), expected)
    assert torch.equal(trained(MapStore(url), images), expected)


@pytest.fixture
def folder(images: Path, make_store: StoreMaker, tmp_path: Path) -> Path:
    """A store of the images."""
    make_store(keys_and_labels(images))
    (made,) = tmp_path.glob("maps-*")
    return made


def test_a_folder(images: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENMIX_CACHE", str(tmp_path / "cache"))

    def kill(after: float, name: str, source: str, place: str) -> None:
        kill_after(after, lambda: push(source, place) if name == "push" else pull(source, place))

    check_all((tmp_path / "remote").as_uri(), images, folder, tmp_path / "pulled", kill)


@pytest.mark.s3
@pytest.mark.filterwarnings("default::DeprecationWarning")
def test_s3(bucket: str, images: Path, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("s3fs")
    check_all(f"{bucket}/store", images, folder, tmp_path / "pulled", kill_alone)
