"""The cut against all masks of a grid, and SciPy's against the compiled one."""

import importlib.util
import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmix_loader.compiled import door
from tokenmix_loader.mixing.optimal.cut import LEVELS, best_levels

pytestmark = pytest.mark.usefixtures("arithmetic")
Doubles = npt.NDArray[np.float64]
SEEDS = st.integers(0, 2**32 - 1)


def energies(levels: Doubles, costs: Doubles, down: Doubles, right: Doubles) -> Doubles:
    """Of masks [N, h, w] of one problem."""
    own = np.take_along_axis(costs[None], (2 * levels).astype(int)[:, None], axis=1).sum(axis=(1, 2, 3))
    below, beside = np.diff(levels, axis=1) ** 2 * down, np.diff(levels, axis=2) ** 2 * right
    total: Doubles = own + below.sum(axis=(1, 2)) + beside.sum(axis=(1, 2))
    return total


def problem(seed: int, height: int, width: int, strength: float) -> tuple[Doubles, Doubles, Doubles]:
    rng = np.random.default_rng(seed)
    costs = rng.normal(size=(3, height, width))
    return costs, strength * rng.random((height - 1, width)), strength * rng.random((height, width - 1))


def all_masks(height: int, width: int, levels: Doubles = LEVELS) -> Doubles:
    return np.array([*itertools.product(levels, repeat=height * width)]).reshape(-1, height, width)


MASKS = {size: all_masks(*size) for size in ((1, 1), (1, 4), (2, 2), (3, 2), (3, 3))}


@settings(max_examples=40)
@given(SEEDS, st.sampled_from([*MASKS]), st.floats(-3, 3))
def test_no_mask_is_better(seed: int, size: tuple[int, int], magnitude: float) -> None:
    """All 81 masks of 2 x 2 blocks and all 19 683 of 3 x 3."""
    parts = problem(seed, *size, 10**magnitude)
    found = best_levels(*(part[None] for part in parts))
    best = energies(MASKS[size], *parts).min()
    assert energies(found, *parts)[0] <= best + 1e-5


@settings(max_examples=40)
@given(SEEDS, st.floats(-2, 2))
def test_without_halves_no_mask_of_two_levels_is_better(seed: int, magnitude: float) -> None:
    parts = problem(seed, 3, 3, 10**magnitude)
    found = best_levels(*(part[None] for part in parts), half=False)
    assert set(np.unique(found)) <= {0, 1}
    best = energies(all_masks(3, 3, np.array([0.0, 1])), *parts).min()
    assert energies(found, *parts)[0] <= best + 1e-5


@settings(max_examples=40)
@given(SEEDS, st.sampled_from([(4, 4), (7, 7), (14, 14), (3, 8)]), st.floats(-2, 1))
def test_larger_grids_are_cut_as_scipy_cuts_them(seed: int, size: tuple[int, int], magnitude: float) -> None:
    if importlib.util.find_spec("numba") is None:
        pytest.skip("numba is not installed")
    problems = (problem(seed + i, *size, 10**magnitude) for i in range(3))
    batch: Any = [np.stack(parts) for parts in zip(*problems, strict=True)]
    ours = best_levels(*batch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(door, "_load", lambda: None)
        theirs = best_levels(*batch)
    np.testing.assert_array_equal(ours, theirs)


@settings(max_examples=40)
@given(SEEDS)
def test_no_single_block_could_do_better(seed: int) -> None:
    """On grids too large for all masks: every change of one block costs more, up to rounding."""
    parts = problem(seed, 14, 14, 1.0)
    found = best_levels(*(part[None] for part in parts))
    changed = np.repeat(found, 3 * 14 * 14, axis=0)
    for i, (level, y, x) in enumerate(itertools.product(LEVELS, range(14), range(14))):
        changed[i, y, x] = level
    assert energies(changed, *parts).min() >= energies(found, *parts)[0] - 1e-5


@pytest.mark.parametrize("strength", [1e3, 1e12, np.finfo(float).max / 1e3])
def test_what_neighbours_pay_decides_when_it_is_much(strength: float) -> None:
    costs, down, right = problem(1, 14, 14, 1.0)
    found = best_levels(costs[None], np.full_like(down, strength)[None], np.full_like(right, strength)[None])
    assert (found == LEVELS[costs.sum(axis=(1, 2)).argmin()]).all()


def test_without_any_costs_the_highest_level_is_taken() -> None:
    down, right = np.ones((1, 1, 2)), np.ones((1, 2, 1))
    assert (best_levels(np.zeros((1, 3, 2, 2)), down, right) == 1).all()
    assert (best_levels(np.zeros((1, 3, 2, 2)), 0 * down, 0 * right) == 1).all()
