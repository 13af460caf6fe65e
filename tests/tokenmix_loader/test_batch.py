import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from timm.data import FastCollateMixup, Mixup
from timm.data.loader import fast_collate
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy
from torch.nn import CrossEntropyLoss
from torch.utils.data import default_collate

from tokenmix_loader import MapTarget

PLACE = np.arange(10.0)


def of_one_image() -> MapTarget:
    """As `MapDataset` gives it: numbers and an array."""
    return MapTarget(3, -1, PLACE, 7)  # type: ignore[arg-type]


def test_the_target_of_one_image_moves_too() -> None:
    moved = of_one_image().to("cpu", non_blocking=True)
    assert isinstance(moved, MapTarget)
    assert [(part.dtype, part.shape) for part in moved] == [
        (torch.int64, ()), (torch.int64, ()), (torch.float64, (10,)), (torch.int64, ())
    ]  # fmt: skip
    assert [part.tolist() for part in moved] == [3, -1, PLACE.tolist(), 7]
    assert (moved.affine.shape, moved.bounds.shape) == ((2, 3), (4,))
    assert all(torch.as_tensor(part).is_meta for part in of_one_image().to("meta"))


def test_torch_s_default_collate_makes_a_batch_of_it() -> None:
    batch = default_collate([of_one_image()] * 2)
    assert isinstance(batch, MapTarget)
    assert [(part.dtype, part.shape) for part in batch] == [
        (torch.int64, (2,)), (torch.int64, (2,)), (torch.float64, (2, 10)), (torch.int64, (2,))
    ]  # fmt: skip


LOGITS, PIXELS = torch.zeros(2, 3), torch.zeros(3, 4, 4, dtype=torch.uint8)


@pytest.mark.parametrize(
    "takes_labels",
    [
        CrossEntropyLoss().__call__,
        LabelSmoothingCrossEntropy().__call__,
        BinaryCrossEntropy().__call__,
        lambda _, target: target.cuda(),
        lambda _, target: torch.nn.functional.one_hot(target),
        lambda _, target: fast_collate([(PIXELS, MapTarget(*part)) for part in zip(*target, strict=True)]),
        lambda _, __: FastCollateMixup(num_classes=3)([(PIXELS, of_one_image())] * 2),
        lambda _, target: Mixup(num_classes=3)(torch.zeros(2, 3, 4, 4), target),
    ],
)
def test_whoever_takes_it_for_labels_is_told_what_is_missing(takes_labels: Callable[..., Any]) -> None:
    """torch's and timm's losses, collate functions and mixers, where ours were left out."""
    with pytest.raises(
        (TypeError, AttributeError), match=r"MapTarget: expected TokenMix or TokenMixCollate .* --mixup or --cutmix"
    ):
        takes_labels(LOGITS, default_collate([of_one_image()] * 2))


def test_it_is_copied_and_pickled_as_any_tuple() -> None:
    batch = default_collate([of_one_image()] * 2)
    for again in (copy.copy(batch), copy.deepcopy(batch), pickle.loads(pickle.dumps(batch))):
        assert isinstance(again, MapTarget)
        assert all(torch.equal(a, b) for a, b in zip(again, batch, strict=True))
    assert not hasattr(batch, "pin_memory")  # torch pins its parts


@pytest.mark.parametrize("shape", [(), (2,)])
def test_place_holds_affine_and_bounds(shape: tuple[int, ...]) -> None:
    place = torch.from_numpy(PLACE).expand(*shape, 10)
    target = MapTarget(torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64), place)
    torch.testing.assert_close(target.affine, torch.arange(6.0).double().reshape(2, 3).expand(*shape, 2, 3))
    torch.testing.assert_close(target.bounds, torch.arange(6.0, 10).double().expand(*shape, 4))
