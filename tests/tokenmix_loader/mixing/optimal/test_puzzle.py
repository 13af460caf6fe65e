import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenmix_loader import PuzzleSettings
from tokenmix_loader.batch import TokenSources
from tokenmix_loader.mixing.optimal.borders import measure_borders
from tokenmix_loader.mixing.optimal.puzzle import border_costs, puzzle_sources

SEEDS = st.integers(0, 2**32 - 1)
PLAIN: dict[str, Any] = {"beta": 0.0, "gamma": 0.0, "eta": 0.0, "xi": 0.0}


def draw(guide: torch.Tensor, seed: int = 0, per: str = "batch", **settings: Any) -> TokenSources:
    batch, gh, gw = guide.shape
    pixels = np.random.default_rng(seed).integers(0, 256, (batch, 3, 4 * gh, 4 * gw), np.uint8)
    return puzzle_sources(np.random.default_rng(seed), guide, torch.from_numpy(pixels), PuzzleSettings(**settings), per)


def guides(seed: int, batch: int = 4, grid: tuple[int, int] = (6, 6)) -> torch.Tensor:
    return torch.rand(batch, *grid, generator=torch.Generator().manual_seed(seed)) + 0.01


@given(SEEDS, st.sampled_from([2, 3, 6]))
def test_without_beta_and_eta_every_block_shows_where_more_is(seed: int, blocks: int) -> None:
    guide = guides(seed)
    side = 6 // blocks
    pooled = guide.reshape(4, blocks, side, blocks, side).sum(dim=(2, 4))
    pooled /= pooled.sum(dim=(1, 2), keepdim=True)
    expected = (pooled >= pooled.flip(0)).repeat_interleave(side, 1).repeat_interleave(side, 2).float()
    found = draw(guide, seed, blocks=blocks, **PLAIN)
    torch.testing.assert_close(found.weight[:, 0], expected)
    torch.testing.assert_close(found.weight.sum(dim=1), torch.ones(4, 6, 6))


@given(SEEDS)
def test_uniform_evidence_leaves_the_prior_alone(seed: int) -> None:
    found = draw(torch.ones(4, 6, 6), seed, gamma=0)
    rng = np.random.default_rng(seed)
    rng.choice((2, 3, 6))
    share = rng.beta(1, 1)
    likeliest = np.argmax([(1 - share) ** 2, 2 * share * (1 - share), share**2]) / 2
    assert (found.weight[:, 0] == likeliest).all()


def test_no_evidence_is_uniform_evidence() -> None:
    nothing, uniform = torch.zeros(4, 6, 6), torch.full((4, 6, 6), 0.2)
    for ours, theirs in zip(draw(nothing), draw(uniform), strict=True):
        assert torch.equal(ours, theirs)


@given(SEEDS, st.integers(1, 6))
def test_strong_smoothness_gives_a_constant_mask(seed: int, batch: int) -> None:
    weight = draw(guides(seed, batch), seed, beta=1e9, gamma=0.5).weight[:, 0]
    assert (weight == weight[:, :1, :1]).all()


def test_the_prior_pulls_towards_the_drawn_share() -> None:
    weights = [draw(guides(0, 2), seed, eta=5, blocks=6).weight[0, 0].mean() for seed in range(200)]
    shares = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        rng.choice((6,))
        shares.append(rng.beta(1, 1))
    assert np.corrcoef(weights, shares)[0, 1] > 0.9


def test_a_hidden_object_moves_to_where_its_image_is_shown() -> None:
    """Both objects lie in the same place: one is shown there, the other moves aside, by one block, with its pixels."""
    guide = torch.full((2, 4, 4), 0.001)
    guide[0, 1, 1], guide[1, 1, 1], guide[1, 1, 2] = 1, 0.9, 0.01
    found = draw(guide, blocks=4, beta=0.0, gamma=0.0, eta=0.0, xi=0.1)
    assert found.weight[0, 0, 1, 1] == 1
    moved = (found.token[0, 1] == 5).nonzero().flatten().tolist()  # where the partner's block at (1, 1) went
    assert moved != [1, 1]
    assert abs(moved[0] - 1) + abs(moved[1] - 1) == 1
    assert found.weight[0, 1, moved[0], moved[1]] == 1
    assert found.image[:, 0, 0, 0].tolist() == [0, 1]
    assert found.image[:, 1, 0, 0].tolist() == [1, 0]


@given(SEEDS, st.sampled_from([(4, 4), (6, 6), (4, 8)]))
def test_blocks_move_as_wholes_and_each_once(seed: int, grid: tuple[int, int]) -> None:
    found = draw(guides(seed, 4, grid) ** 8, seed, xi=0.0, beta=0.0, eta=0.0, blocks=2)
    tokens = torch.arange(grid[0] * grid[1]).view(grid)
    height, width = grid[0] // 2, grid[1] // 2
    for image in found.token.flatten(0, 1):
        assert sorted(image.flatten().tolist()) == tokens.flatten().tolist()
        for top, left in itertools.product((0, height), (0, width)):
            block = image[top : top + height, left : left + width]
            y, x = divmod(int(block[0, 0]), grid[1])
            assert torch.equal(block, tokens[y : y + height, x : x + width])


def test_an_image_that_is_its_own_partner_stays_as_it_is() -> None:
    """Whatever share is drawn: the prior alone would have it mixed with itself, and moved."""
    for seed in range(8):
        found = draw(guides(1, 5), seed, xi=0.0, eta=1.0)
        assert (found.weight[2, 0] == 1).all()
        assert torch.equal(found.token[2, 0], torch.arange(36).view(6, 6))


def test_one_share_for_all_or_one_each() -> None:
    uniform = torch.ones(40, 6, 6)
    assert len(set(draw(uniform, 3, gamma=0.0).weight[:, 0].flatten().tolist())) == 1
    assert len(set(draw(uniform, 3, per="sample", gamma=0.0).weight[:, 0].flatten().tolist())) == 3


@pytest.mark.parametrize("blocks", [2, 4])
@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_borders_are_what_a_loop_over_pixels_says(blocks: int, kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 16, 24), np.uint8)
    std = (0.2, 0.3, 0.4)
    images = torch.from_numpy(pixels)
    if kind == "float":
        images = (images / 255 - 0.5) / torch.tensor(std)[:, None, None]
    below, beside = measure_borders(images, blocks, std)
    pooled = pixels.reshape(3, 3, 8, 2, 12, 2).mean(axis=(3, 5)) / 255
    high, wide = 8 // blocks, 12 // blocks
    for i, (y, x) in itertools.product(range(3), itertools.product(range(blocks), range(blocks))):
        rows, columns = slice(y * high, (y + 1) * high), slice(x * wide, (x + 1) * wide)
        for other, measure in ((i, "own"), (2 - i, "cross")):
            if y:
                step = pooled[i, :, y * high - 1, columns] - pooled[other, :, y * high, columns]
                assert getattr(below, measure)[i, y - 1, x] == pytest.approx(np.abs(step).mean(), abs=1e-5)
            if x:
                step = pooled[i, :, rows, x * wide - 1] - pooled[other, :, rows, x * wide]
                assert getattr(beside, measure)[i, y, x - 1] == pytest.approx(np.abs(step).mean(), abs=1e-5)


@given(SEEDS)
def test_the_border_terms_are_exact_for_masks_of_two_levels(seed: int) -> None:
    """For every mask of 2 x 2 blocks the sum of both terms is the sum over its borders, up to one constant."""
    images = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (2, 3, 8, 8), np.uint8))
    down, right = measure_borders(images, 2, (1, 1, 1))
    costs = border_costs(down, right)[0]
    constants = []
    for mask in itertools.product((0, 1), repeat=4):
        z = np.array(mask).reshape(2, 2)
        direct = 0.0
        for border, pairs in (
            (down, (((0, 0), (1, 0)), ((0, 1), (1, 1)))),
            (right, (((0, 0), (0, 1)), ((1, 0), (1, 1)))),
        ):
            for (first, second), at in zip(
                pairs, ((0, 0), (0, 1)) if border is down else ((0, 0), (1, 0)), strict=True
            ):
                part = border.own if z[first] == z[second] else border.cross
                direct += part[0 if z[first] else 1][at]
        terms = np.take_along_axis(costs, 2 * z[None], axis=0).sum()
        terms += (down.excess()[0] * np.diff(z, axis=0) ** 2).sum() + (
            right.excess()[0] * np.diff(z, axis=1) ** 2
        ).sum()
        constants.append(terms - direct)
    np.testing.assert_allclose(constants, constants[0], atol=1e-12)


def test_gamma_moves_a_border_to_where_pixels_fit() -> None:
    """Evidence at both ends; the images agree around one border alone, so that one parts them."""
    guide = torch.zeros(2, 8, 8)
    guide[0, :, 0], guide[1, :, 7] = 1, 1
    pixels = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    pixels[1] = 255
    pixels[:, :, :, 18:22] = 128  # both sides of the border between columns 4 and 5 of 8
    for gamma, expected in ((0, [1, 1, 1, 1, 1, 1, 0.5, 0]), (1, [1, 1, 1, 1, 1, 0.5, 0.5, 0])):
        chosen = PuzzleSettings(blocks=8, eta=0, gamma=gamma, xi=10)
        weight = puzzle_sources(np.random.default_rng(0), guide, pixels, chosen).weight[0, 0]
        assert (weight == torch.tensor(expected)).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": -1}, "PuzzleSettings: beta: expected a number of at least 0, found -1"),
        ({"gamma": 1.5}, "PuzzleSettings: gamma: expected a share"),
        ({"alpha": 0}, "PuzzleSettings: alpha: expected a number above 0"),
        ({"blocks": 4}, r"blocks: expected divisors of the 6 x 6 grid, 2, 3, 6, found 4"),
        ({"blocks": ()}, "PuzzleSettings: blocks: expected numbers of blocks"),
        ({"blocks": [2, 0]}, "PuzzleSettings: blocks: expected at least 1, found 0"),
        ({"std": (0.2, 0, 0.2)}, "PuzzleSettings: std: expected numbers above 0, found 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(guides(0), **settings)


@pytest.mark.parametrize("given", [{"blocks": "4"}, {"blocks": [2, "4"]}, {"std": 0.5}, {"std": ()}, {"std": "abc"}])
def test_settings_of_other_types_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=f"PuzzleSettings: {next(iter(given))}: expected"):
        PuzzleSettings(**given)


def test_a_grid_that_no_number_divides_is_refused_for_it_would_mix_nothing() -> None:
    with pytest.raises(ValueError, match="blocks: expected a grid whose sides have a common divisor, found 7 x 4"):
        puzzle_sources(np.random.default_rng(0), torch.ones(2, 7, 4), torch.zeros(2, 3, 28, 16), PuzzleSettings())


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_pixels_that_are_not_finite_are_refused(value: float) -> None:
    pixels = torch.zeros(4, 3, 12, 12)
    pixels[1, 2, 6] = value
    with pytest.raises(ValueError, match="images: expected finite pixels, found inf or nan"):
        puzzle_sources(np.random.default_rng(0), guides(0), pixels, PuzzleSettings(blocks=6))


def test_images_may_require_gradients() -> None:
    pixels = torch.rand(4, 3, 12, 12, requires_grad=True)
    found = [
        puzzle_sources(np.random.default_rng(0), guides(0), each, PuzzleSettings())
        for each in (pixels, pixels.detach())
    ]
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_floats_of_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 3 channels, as puzzle.std has, found 1"):
        puzzle_sources(np.random.default_rng(0), guides(0), torch.zeros(4, 1, 12, 12), PuzzleSettings())
