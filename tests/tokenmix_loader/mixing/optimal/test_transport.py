"""Assignments, compiled and by SciPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from tokenmix_loader.mixing.optimal.transport import best_origins, squared_distances

pytestmark = pytest.mark.usefixtures("arithmetic")
SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=60)
@given(SEEDS, st.sampled_from([1, 2, 3, 5, 14]), st.one_of(st.floats(0, 3), st.floats(0, 0.1)))
def test_transport_is_scipy_s_assignment(seed: int, side: int, xi: float) -> None:
    rng = np.random.default_rng(seed)
    saliency, shown = rng.dirichlet(np.full(side**2, 0.3)).reshape(side, side), rng.random((side, side)) < rng.random()
    origins = best_origins(saliency[None], shown[None], xi)[0]
    assert sorted(origins) == [*range(side**2)]
    cost = xi * squared_distances(side, side) - saliency.reshape(-1, 1) * shown.reshape(1, -1)
    best = cost[linear_sum_assignment(cost)].sum()
    assert cost[origins, np.arange(side**2)].sum() == pytest.approx(best, abs=1e-12)


def test_distances_are_squared_and_at_most_two() -> None:
    distances = squared_distances(4, 4)
    assert distances[0, 15] == 2
    assert distances[0, 1] == pytest.approx(1 / 9)
    assert squared_distances(1, 1) == 0


def test_without_a_price_all_that_matters_is_shown() -> None:
    saliency = np.array([[[0.4, 0.1], [0.3, 0.2]]])
    origins = best_origins(saliency, np.array([[[False, True], [True, False]]]), 0.0)[0]
    assert {origins[1], origins[2]} == {0, 2}
