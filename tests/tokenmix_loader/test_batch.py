import numpy as np
import pytest
import torch

from tokenmix_loader import MapTarget

PLACE = np.arange(10.0)


def of_one_image() -> MapTarget:
    """As `MapDataset` gives it: numbers and an array."""
    return MapTarget(3, -1, PLACE)  # type: ignore[arg-type]


def test_the_target_of_one_image_moves_too() -> None:
    moved = of_one_image().to("cpu", non_blocking=True)
    assert isinstance(moved, MapTarget)
    assert [part.dtype for part in moved] == [torch.int64, torch.int64, torch.float64]
    assert (moved.label.item(), moved.row.item(), moved.place.tolist()) == (3, -1, PLACE.tolist())
    assert all(part.is_meta for part in of_one_image().to("meta"))


@pytest.mark.parametrize("shape", [(), (2,)])
def test_place_holds_affine_and_bounds(shape: tuple[int, ...]) -> None:
    place = torch.from_numpy(PLACE).expand(*shape, 10)
    target = MapTarget(torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64), place)
    torch.testing.assert_close(target.affine, torch.arange(6.0).double().reshape(2, 3).expand(*shape, 2, 3))
    torch.testing.assert_close(target.bounds, torch.arange(6.0, 10).double().expand(*shape, 4))
