"""The steps of a map over like tokens: against the definition, and what they leave alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from extract.teacher.kinds.spread import POWER, STEPS, likeness, spread, transitions


def made(seed: int, batch: int = 2, views: int = 1) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Maps [B, 3, 4] and as many features [B, 5, 3, 4] as there are views."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(batch, 3, 4, generator=generator)
    return maps, [torch.randn(batch, 5, 3, 4, generator=generator) for _ in range(views)]


def spread_by(maps: torch.Tensor, features: list[torch.Tensor]) -> torch.Tensor:
    return spread(maps, transitions(torch.stack([likeness(view) for view in features]).mean(0)))


@given(seed=st.integers(0, 2**32), views=st.integers(1, 3))
def test_it_is_the_mean_over_like_tokens_again_and_again(seed: int, views: int) -> None:
    maps, features = made(seed, 1, views)
    values, count = maps.double().flatten().tolist(), maps[0].numel()
    tokens = [np.asarray(view[0].flatten(1).T, np.float64) for view in features]
    tokens = [view - view.mean(0) for view in tokens]
    like = [
        [max(0.0, np.mean([v[i] @ v[j] / (np.linalg.norm(v[i]) * np.linalg.norm(v[j])) for v in tokens])) ** POWER
         for j in range(count)] for i in range(count)
    ]  # fmt: skip
    for _ in range(STEPS):
        values = [sum(a * v for a, v in zip(row, values, strict=True)) / sum(row) for row in like]
    torch.testing.assert_close(spread_by(maps, features).double().flatten(), torch.tensor(values, dtype=torch.float64),
                               rtol=1e-4, atol=1e-6)  # fmt: skip


@given(seed=st.integers(0, 2**32))
def test_it_stays_between_the_least_and_the_largest_and_knows_no_places(seed: int) -> None:
    maps, features = made(seed)
    found = spread_by(maps, features)
    assert (found <= maps.amax((1, 2), keepdim=True) + 1e-6).all()
    assert (found >= maps.amin((1, 2), keepdim=True) - 1e-6).all()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    moved = [t.flatten(-2)[..., order].reshape(t.shape) for t in (maps, *features)]
    torch.testing.assert_close(spread_by(moved[0], moved[1:]).flatten(1), found.flatten(1)[:, order])
    torch.testing.assert_close(spread_by(maps[:1], [f[:1] for f in features]), found[:1])


def test_two_things_a_part_of_one_is_hot() -> None:
    features = torch.zeros(1, 2, 4, 4)
    features[0, 0, :, :2], features[0, 1, :, 2:] = 1, 1
    maps = torch.zeros(1, 4, 4)
    maps[0, 0, 0] = 1
    expected = torch.zeros(1, 4, 4)
    expected[0, :, :2] = 1 / 8
    torch.testing.assert_close(spread_by(maps, [features]), expected)


@pytest.mark.parametrize("value", [0.0, 3.0, 0.1, 1e-3])
@pytest.mark.parametrize("grid", [(3, 4), (28, 28)])
def test_tokens_that_do_not_differ_leave_the_map_as_it_is(value: float, grid: tuple[int, int]) -> None:
    maps = torch.rand(2, *grid, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(spread_by(maps, [torch.full((2, 5, *grid), value)]), maps)


def test_a_map_without_contrast_stays_exactly_so() -> None:
    """As evidence `contrast` finds some in rounding errors, above all in uint8."""
    features = torch.randn(2, 5, 28, 28, generator=torch.Generator().manual_seed(0))
    assert torch.equal(spread_by(torch.ones(2, 28, 28), [features]), torch.ones(2, 28, 28))


def test_an_image_without_evidence_has_none_afterwards() -> None:
    _, features = made(0)
    assert not spread_by(torch.zeros(2, 3, 4), features).any()
