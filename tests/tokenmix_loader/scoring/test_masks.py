import math
from inspect import signature
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenmix_loader import guided_masks, sample_masks
from tokenmix_loader.mixing.settings import MixSettings

KINDS = ("block", "random", "region")
sides = st.integers(1, 16)
grids = st.tuples(sides, sides)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(st.sampled_from(KINDS), grids, st.floats(0, 1), st.integers(1, 20), st.integers(0, 2**32))
def test_every_mask_keeps_exactly_its_count(
    kind: str, grid: tuple[int, int], kept: float, min_tokens: int, seed: int
) -> None:
    masks = sample_masks(rng(seed), 5, grid, kind, kept=kept, min_tokens=min_tokens)
    assert masks.shape == (5, *grid)
    assert masks.dtype == torch.bool
    assert (masks.sum((1, 2)) == math.floor(kept * (grid[0] * grid[1]) + 0.5)).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (1, 9), (9, 1), (7, 7), (14, 14), (16, 24)])
def test_half_of_any_grid(kind: str, grid: tuple[int, int]) -> None:
    assert (sample_masks(rng(), 64, grid, kind).sum((1, 2)) == (grid[0] * grid[1] + 1) // 2).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("per", ["sample", "batch"])
def test_the_generator_decides_everything(kind: str, per: str) -> None:
    first, again, other = (sample_masks(rng(seed), 8, (14, 14), kind, per=per) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_shares_one_mask_when_asked(kind: str) -> None:
    shared = sample_masks(rng(), 8, (14, 14), kind, per="batch", beta=(1, 1))
    assert (shared == shared[0]).all()
    single = sample_masks(rng(), 8, (14, 14), kind, per="sample")
    assert len({tuple(mask.flatten().tolist()) for mask in single}) > 5


def test_beta_draws_a_share_for_each_mask() -> None:
    shares = sample_masks(rng(), 2000, (14, 14), beta=(0.8, 0.8)).float().mean((1, 2))
    assert abs(float(shares.mean()) - 0.5) < 0.02
    assert abs(float(shares.var()) - 0.25 / 2.6) < 0.01  # ab / ((a + b)^2 (a + b + 1))


def is_rectangle(tokens: torch.Tensor) -> bool:
    rows, columns = tokens.any(dim=1), tokens.any(dim=0)
    return bool(torch.equal(tokens, rows[:, None] & columns) and is_run(rows) and is_run(columns))


def is_run(flags: torch.Tensor) -> bool:
    return int(flags.int().diff().abs().sum() + flags[0] + flags[-1]) == 2


def test_a_region_is_one_rectangle_with_its_last_row_cut() -> None:
    for replaced in ~sample_masks(rng(), 200, (14, 14), "region", beta=(1, 1)):
        if replaced.any():
            rows = replaced.any(dim=1).nonzero().flatten()
            last = replaced[rows[-1]]
            assert last.any()
            assert len(rows) == 1 or is_rectangle(replaced[: rows[-1]])
            assert is_run(last)


def test_a_small_block_mask_is_one_block_of_log_uniform_aspect() -> None:
    """With 24 of 1600 tokens replaced and 24 the smallest block, there is a single trimmed block."""
    replaced = ~sample_masks(rng(), 2000, (40, 40), kept=1 - 24 / 1600, min_tokens=24, aspect=(0.25, 4))
    height = replaced.any(dim=2).sum(dim=1).double()
    width = replaced.any(dim=1).sum(dim=1).double()
    assert height.min() >= 2
    assert height.max() <= 10
    assert abs(float((height / width).log().mean())) < 0.1
    assert 0.6 < float((height / width).log().std()) < 1.0  # log-uniform on +-log 4: 0.80


def test_the_last_block_is_trimmed_at_either_end() -> None:
    """5 tokens in one block of 6: the cut corner is the first or the last."""
    replaced = ~sample_masks(rng(), 400, (10, 10), kept=0.95, min_tokens=6, aspect=(2 / 3, 2 / 3))
    assert (replaced.sum((1, 2)) == 5).all()
    cut_at_top = sum(int(mask[mask.any(dim=1)][0].sum()) < 3 for mask in replaced)
    assert 150 < cut_at_top < 250


def test_blocks_lie_inside_the_grid_with_equal_odds() -> None:
    """Mirror images are equally likely; uniform places inside the grid favour the centre."""
    odds = 1 - sample_masks(rng(), 6000, (14, 14)).double().mean(dim=0)
    symmetric = (odds + odds.flip(0) + odds.flip(1) + odds.flip(0, 1)) / 4
    assert (odds - symmetric).abs().max() < 0.03
    assert 0.03 < float(odds[0, 0]) < 0.15
    assert 0.8 < float(odds[7, 7]) < 0.95


def test_random_masks_favour_no_token() -> None:
    odds = sample_masks(rng(), 6000, (7, 7), "random").double().mean(dim=0)
    assert (odds - 25 / 49).abs().max() < 0.03


def test_the_released_variant_keeps_what_the_published_code_kept() -> None:
    masks = sample_masks(rng(), 3000, (14, 14), variant="released").double()
    replaced = 1 - masks.mean(dim=0)
    assert abs(float(masks.mean()) - 0.4287) < 0.001
    assert abs(float(replaced[0, 0]) - 0.11) < 0.03
    assert abs(float(replaced[7, 7]) - 0.89) < 0.03


@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (1, 9), (7, 7)])
def test_the_released_variant_ends_on_small_grids(grid: tuple[int, int]) -> None:
    assert sample_masks(rng(), 16, grid, variant="released").shape == (16, *grid)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"kind": "blob"}, "kind: expected one of block, random, region, found 'blob'"),
        ({"per": "pair"}, "per: expected one of"),
        ({"variant": "fixed"}, "variant: expected one of"),
        ({"variant": "released", "kind": "random"}, "expected kind 'block'"),
        ({"variant": "released", "beta": (1, 1)}, "expected a fixed share"),
        ({"kept": 1.5}, "kept: expected a share from 0 to 1, found 1.5"),
        ({"beta": (0, 1)}, "beta: expected two positive"),
        ({"beta": 1.0}, "beta: expected two positive"),
        ({"aspect": (1, math.inf)}, "aspect: expected"),
        ({"min_tokens": 0}, "min_tokens: expected at least 1"),
        ({"aspect": (2, 1)}, "aspect: expected"),
        ({"batch": 0}, "batch: expected at least 1"),
        ({"grid": (0, 3)}, "grid: expected"),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, object], message: str) -> None:
    settings: dict[str, object] = {"batch": 2, "grid": (4, 4), **setting}
    with pytest.raises(ValueError, match=message):
        sample_masks(rng(), **settings)  # type: ignore[arg-type]


def test_the_mixing_settings_have_the_masks_defaults() -> None:
    ours, theirs = (signature(function).parameters for function in (MixSettings, sample_masks))
    assert all(ours[name].default == theirs[name].default for name in ours.keys() & theirs.keys() - {"per"})


@given(st.sampled_from(["attentive", "saliencymix"]), grids, st.floats(0, 1), st.integers(0, 2**32))
def test_guided_masks_keep_exactly_their_count(kind: str, grid: tuple[int, int], kept: float, seed: int) -> None:
    tokens = torch.rand(4, *grid, generator=torch.Generator().manual_seed(seed)) * (seed % 3)
    masks = guided_masks(rng(seed), tokens, kind, kept=kept)
    count = math.floor(kept * (grid[0] * grid[1]) + 0.5)
    assert (masks.sum((1, 2)) == count).all()
    if kind == "saliencymix" and count < grid[0] * grid[1] and seed % 3:  # wherever it lies, the peak is pasted
        peaks = tokens.flip(0).flatten(1).argmax(1, keepdim=True)
        assert not masks.flatten(1).gather(1, peaks).any()


def test_attentive_masks_keep_what_image_a_shows_most_of() -> None:
    tokens = torch.rand(8, 7, 7)
    for values, mask in zip(tokens, guided_masks(rng(), tokens), strict=True):
        assert values[mask].min() >= values[~mask].max()
    lots = guided_masks(rng(), torch.zeros(2000, 4, 4)).double().mean(dim=0)
    assert (lots - 0.5).abs().max() < 0.06


def test_saliencymix_pastes_the_partner_s_peak() -> None:
    tokens = torch.rand(8, 14, 14)
    masks = guided_masks(rng(), tokens, "saliencymix", kept=0.75)
    assert torch.equal(masks, guided_masks(rng(), tokens, "peak", kept=0.75))  # its older name
    for mask, values in zip(masks, tokens.flip(0), strict=True):
        assert not mask[divmod(int(values.argmax()), 14)]
        assert is_rectangle(~mask)


def test_guides_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="kind: expected one of attentive, saliencymix, peak, found 'blob'"):
        guided_masks(rng(), torch.rand(1, 2, 2), "blob")
    with pytest.raises(ValueError, match="kept: expected a share from 0 to 1, found 2"):
        guided_masks(rng(), torch.rand(1, 2, 2), kept=2)


@pytest.mark.parametrize("wrong", [0, None, torch.Generator()])
def test_anything_but_numpy_s_generator_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="sample_masks: rng: expected a numpy.random.Generator, found"):
        sample_masks(wrong, 2, (4, 4))
    with pytest.raises(TypeError, match="guided_masks: rng: expected"):
        guided_masks(wrong, torch.rand(1, 2, 2))
