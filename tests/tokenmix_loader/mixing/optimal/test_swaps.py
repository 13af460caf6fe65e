"""One output of Co-Mixup, compiled and with SciPy's cuts."""

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmix_loader.mixing.optimal.swaps import best_swaps, most_shown, swap_energy

pytestmark = pytest.mark.usefixtures("arithmetic")
SEEDS = st.integers(0, 2**32 - 1)
Ints = npt.NDArray[np.int64]


def whole(inputs: Ints) -> Ints:
    """Contents without halves."""
    return np.repeat(inputs[..., None], 2, axis=-1)


@settings(max_examples=25)
@given(SEEDS, st.floats(-3, 1), st.booleans())
def test_with_two_inputs_no_contents_are_better(seed: int, magnitude: float, soft: bool) -> None:
    """All 16 contents of 2 x 2 blocks, and with halves all 81."""
    costs, weight = np.random.default_rng(seed).normal(size=(2, 2, 2)), 10**magnitude
    start = whole(np.array([[0, 1], [1, 0]]))
    found = best_swaps(costs, start, weight, soft)
    choices = [(0, 0), (1, 1), (0, 1)] if soft else [(0, 0), (1, 1)]
    every = (np.array(each).reshape(2, 2, 2) for each in itertools.product(choices, repeat=4))
    assert swap_energy(costs, found, weight) <= min(swap_energy(costs, each, weight) for each in every) + 1e-6


@settings(max_examples=25)
@given(SEEDS, st.floats(-3, 0))
def test_with_three_inputs_no_move_is_left_that_helps(seed: int, magnitude: float) -> None:
    """A move: the blocks that show nothing but two of the inputs may show either of them."""
    costs, weight = np.random.default_rng(seed).normal(size=(3, 2, 2)), 10**magnitude
    found = best_swaps(costs, whole(costs.argmin(axis=0)), weight, soft=False)
    best = swap_energy(costs, found, weight)
    every = [whole(np.array(each).reshape(2, 2)) for each in itertools.product(range(3), repeat=4)]
    for pair in itertools.combinations(range(3), 2):
        free = np.isin(found, pair)
        reached = [e for e in every if (np.isin(e, pair) == free).all() and (e[~free] == found[~free]).all()]
        assert reached
        assert best <= min(swap_energy(costs, each, weight) for each in reached) + 1e-6
    assert best <= swap_energy(costs, whole(costs.argmin(axis=0)), weight)


def test_neighbours_pay_half_the_squared_distance() -> None:
    costs, two = np.zeros((3, 1, 2)), {}
    for name, pair in {"other": ((0, 0), (1, 1)), "half": ((0, 0), (0, 1)), "third": ((0, 1), (2, 2)),
                       "halves": ((0, 1), (0, 2)), "same": ((0, 1), (0, 1))}.items():  # fmt: skip
        two[name] = swap_energy(costs, np.array([pair]), 1.0)
    assert two == {"other": 1, "half": 0.25, "third": 0.75, "halves": 0.25, "same": 0}


def test_halves_are_of_the_three_inputs_shown_most() -> None:
    assert most_shown(whole(np.array([[3, 3, 3], [1, 1, 1], [0, 0, 4]])), 6).tolist() == [1, 1, 0, 1, 0, 0]
    assert most_shown(whole(np.array([[2]])), 3).tolist() == [0, 0, 1]
