import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmix_loader import align
from tokenmix_loader.scoring.geometry import refine

pytestmark = pytest.mark.usefixtures("arithmetic")

IDENTITY = torch.tensor([[1.0, 0, 0], [0, 1, 0]], dtype=torch.float64)
WHOLE = torch.tensor([0.0, 0, 1, 1])

sides = st.integers(1, 9)
grids = st.tuples(sides, sides)
seeds = st.integers(0, 2**32 - 1)


def random_maps(seed: int, size: tuple[int, int], batch: int = 3) -> torch.Tensor:
    return torch.rand(batch, *size, generator=torch.Generator().manual_seed(seed))


def random_views(seed: int, batch: int = 3, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    corners = np.random.default_rng(seed).uniform(low, high - 0.3, (batch, 2, 2))
    corners.sort(axis=1)
    corners[:, 1] += 0.3
    return torch.from_numpy(corners.reshape(batch, 4))


def random_crops(seed: int, batch: int = 3) -> torch.Tensor:
    """Axis-aligned crops that reach outside of the image now and then, flipped or not."""
    rng = np.random.default_rng(seed)
    affines = np.zeros((batch, 2, 3))
    scale = rng.uniform(0.1, 1.2, (batch, 2))
    affines[:, [0, 1], [0, 1]] = scale * rng.choice([-1, 1], (batch, 2))
    affines[:, :, 2] = rng.uniform(-0.2, 1, (batch, 2)) + np.where(affines[:, [0, 1], [0, 1]] < 0, scale, 0)
    return torch.from_numpy(affines)


def turned(affines: torch.Tensor) -> torch.Tensor:
    """The same crops shown mirrored at the diagonal: u and v change places."""
    return affines[:, :, [1, 0, 2]]


def repeated(tensor: torch.Tensor, batch: int = 3) -> torch.Tensor:
    return tensor.expand(batch, *tensor.shape)


def rasterised(
    evidence: torch.Tensor, view: torch.Tensor, affine: torch.Tensor, grid: tuple[int, int], fine: int = 96
) -> npt.NDArray[np.float64]:
    """One map on tokens by scattering points of the *cells* into tokens: the opposite direction to `align`."""
    h, w = evidence.shape
    at = (np.arange(fine) + 0.5) / fine
    y, x = np.meshgrid(
        (np.arange(h)[:, None] + at).ravel() / h, (np.arange(w)[:, None] + at).ravel() / w, indexing="ij"
    )
    x0, y0, x1, y1 = view.tolist()
    points = np.stack((x0 + x * (x1 - x0), y0 + y * (y1 - y0)))
    matrix = affine.numpy()
    u, v = np.einsum("ij,jyx->iyx", np.linalg.inv(matrix[:, :2]), points - matrix[:, 2, None, None])
    seen = (u >= 0) & (u < 1) & (v >= 0) & (v < 1) & ((points >= 0) & (points <= 1)).all(axis=0)
    mass = np.kron(evidence.numpy(), np.ones((fine, fine))) / fine**2
    tokens = np.zeros(grid)
    np.add.at(tokens, ((v[seen] * grid[0]).astype(int), (u[seen] * grid[1]).astype(int)), mass[seen])
    return tokens


@given(seeds, grids, grids)
def test_whole_image_conserves_every_map_s_mass(seed: int, size: tuple[int, int], grid: tuple[int, int]) -> None:
    maps = random_maps(seed, size)
    tokens = align(maps, random_views(seed), repeated(IDENTITY), grid)
    np.testing.assert_allclose(tokens.sum((1, 2)), maps.sum((1, 2)), rtol=1e-5, atol=0)


@given(seeds, grids)
def test_identity_on_the_teacher_s_own_grid_returns_the_map(seed: int, size: tuple[int, int]) -> None:
    maps = random_maps(seed, size)
    tokens = align(maps, repeated(WHOLE), repeated(IDENTITY), size)
    np.testing.assert_allclose(tokens, maps, rtol=1e-5, atol=1e-7)


@given(seeds, grids, grids)
def test_tiling_the_image_with_crops_splits_the_mass(seed: int, size: tuple[int, int], grid: tuple[int, int]) -> None:
    maps, views = random_maps(seed, size), random_views(seed)
    cut = np.random.default_rng(seed).uniform(0.1, 0.9)
    parts = [torch.tensor([[cut, 0, 0], [0, 1, 0]]), torch.tensor([[1 - cut, 0, cut], [0, 1, 0]])]
    mass = sum(align(maps, views, repeated(part), grid).sum((1, 2)) for part in parts)
    np.testing.assert_allclose(mass, maps.sum((1, 2)), rtol=1e-5, atol=0)


@given(seeds, grids, grids, st.sampled_from([1, 2]))
def test_flipping_the_input_flips_the_tokens(seed: int, size: tuple[int, int], grid: tuple[int, int], dim: int) -> None:
    maps, views, affines = random_maps(seed, size), random_views(seed), random_crops(seed)
    column = 2 - dim
    mirrored = affines.clone()
    mirrored[:, :, 2] += affines[:, :, column]
    mirrored[:, :, column] *= -1
    tokens = align(maps, views, affines, grid)
    np.testing.assert_allclose(align(maps, views, mirrored, grid), tokens.flip(dim), rtol=1e-5, atol=1e-6)


@given(seeds, grids, grids)
def test_transposing_the_input_transposes_the_tokens(seed: int, size: tuple[int, int], grid: tuple[int, int]) -> None:
    maps, views, affines = random_maps(seed, size), random_views(seed), random_crops(seed)
    tokens = align(maps, views, affines, grid)
    transposed = align(maps, views, turned(affines), (grid[1], grid[0]))
    np.testing.assert_allclose(transposed, tokens.mT, rtol=1e-5, atol=1e-6)


@given(seeds, grids, grids, st.booleans())
@settings(max_examples=30)
def test_sampled_tokens_agree_with_exact_ones(
    seed: int, size: tuple[int, int], grid: tuple[int, int], turn: bool
) -> None:
    maps, views, affines = random_maps(seed, size), random_views(seed), random_crops(seed)
    affines = turned(affines) if turn else affines
    barely_sheared = affines + torch.where(affines == 0, 1e-9, 0)
    exact = align(maps, views, affines, grid)
    sampled = align(maps, views, barely_sheared, grid, samples=120)  # 40: too few in small views
    assert (sampled - exact).abs().sum((1, 2)).max() < 0.08 * maps.sum((1, 2)).max()


def test_the_default_sampling_costs_a_score_less_than_half_a_percent() -> None:
    """On noise, the hardest map to sample."""
    maps, views = random_maps(0, (18, 18), 256), repeated(WHOLE, 256)
    affines = repeated(torch.tensor([[0.7, 0, 0.1], [0, 0.6, 0.2]], dtype=torch.float64), 256)
    exact = align(maps, views, affines, (14, 14))
    sampled = align(maps, views, affines + torch.where(affines == 0, 1e-9, 0), (14, 14))
    scores = [(tokens * maps[:, :14, :14].ge(0.5)).sum((1, 2)) / tokens.sum((1, 2)) for tokens in (exact, sampled)]
    assert (scores[0] - scores[1]).abs().mean() < 0.005


@given(seeds, st.floats(-3, 3), st.floats(-0.5, 0.5))
@settings(max_examples=15)
def test_oblique_crops_agree_with_a_rasterisation(seed: int, angle: float, shear: float) -> None:
    maps, views = random_maps(seed, (3, 4), 1), random_views(seed, 1, -0.2, 1.1)
    cos, sin = np.cos(angle), np.sin(angle)
    affine = torch.tensor([[[0.6 * cos, -0.6 * sin + shear, 0.4], [0.6 * sin, 0.6 * cos, 0.3]]], dtype=torch.float64)
    tokens = align(maps, views, affine, (2, 3), samples=32)
    expected = rasterised(maps[0], views[0], affine[0], (2, 3))
    np.testing.assert_allclose(tokens[0], expected, atol=0.02 * float(maps.sum()))


@given(seeds, st.booleans())
@settings(max_examples=15)
def test_straight_crops_agree_with_a_rasterisation(seed: int, turn: bool) -> None:
    maps, views, affine = random_maps(seed, (3, 4), 1), random_views(seed, 1, -0.2, 1.1), random_crops(seed, 1)
    affine = turned(affine) if turn else affine
    tokens = align(maps, views, affine, (2, 3))
    expected = rasterised(maps[0], views[0], affine[0], (2, 3))
    np.testing.assert_allclose(tokens[0], expected, atol=0.02 * float(maps.sum()))


def test_samples_of_all_kinds_share_a_batch() -> None:
    maps, views, straight = random_maps(5, (6, 5)), random_views(5), random_crops(5)
    oblique = torch.tensor([[0.5, 0.2, 0.1], [-0.2, 0.5, 0.3]], dtype=torch.float64)
    affines = torch.stack((straight[0], turned(straight)[1], oblique))
    tokens = align(maps, views, affines, (4, 4))
    alone = [align(maps[i : i + 1], views[i : i + 1], affines[i : i + 1], (4, 4)) for i in range(3)]
    np.testing.assert_allclose(tokens, torch.cat(alone))


def test_evidence_is_found_where_it_is() -> None:
    """A peak in the teacher's top right cell; the crop shows the right half, mirrored."""
    maps = torch.zeros(1, 4, 4)
    maps[0, 0, 3] = 1
    right_half_mirrored = torch.tensor([[[-0.5, 0, 1], [0, 1, 0]]])
    tokens = align(maps, WHOLE[None], right_half_mirrored, (4, 2))
    expected = torch.zeros(1, 4, 2)
    expected[0, 0, 0] = 1
    np.testing.assert_allclose(tokens, expected)


@pytest.mark.parametrize("shear", [0, 1e-3])
def test_a_crop_beside_the_view_or_the_image_holds_nothing(shear: float) -> None:
    maps = torch.ones(1, 3, 3)
    left_part, padded = torch.tensor([[0.0, 0, 0.4, 1]]), torch.tensor([[-0.5, -0.5, 1.5, 1.5]])
    for view, x, y in ((left_part, 0.5, 0.4), (padded, 1.1, 0.4), (padded, -0.3, 0.4), (padded, 0.4, 1.1)):
        crop = torch.tensor([[[0.2, shear, x], [shear, 0.2, y]]])
        assert (align(maps, view, crop, (2, 2)) == 0).all()


def test_the_padding_s_share_of_a_padded_view_is_seen_by_no_token() -> None:
    maps = torch.ones(1, 4, 4)
    padded = torch.tensor([[0.0, -0.5, 1, 1.5]])
    tokens = align(maps, padded, IDENTITY[None], (2, 2))
    np.testing.assert_allclose(tokens, torch.full((1, 2, 2), 2.0))


@pytest.mark.parametrize(
    ("views", "affines", "grid", "message"),
    [
        (WHOLE[None], IDENTITY[None], (2, 2), r"views: expected shape \[3, 4\], found \[1, 4\]"),
        (repeated(WHOLE), IDENTITY, (2, 2), r"affines: expected shape \[3, 2, 3\]"),
        (repeated(WHOLE[[2, 1, 0, 3]]), repeated(IDENTITY), (2, 2), "empty rectangle"),
        (repeated(WHOLE), repeated(IDENTITY * torch.nan), (2, 2), "inf or nan"),
        (repeated(WHOLE), repeated(IDENTITY), (0, 2), "grid: expected"),
    ],
)
def test_bad_input_is_refused_with_what_was_expected(
    views: torch.Tensor, affines: torch.Tensor, grid: tuple[int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        align(torch.ones(3, 4, 4), views, affines, grid)


def test_other_types_are_refused() -> None:
    views, affines = repeated(WHOLE), repeated(IDENTITY)
    with pytest.raises(TypeError, match="evidence: expected a tensor, found ndarray"):
        align(np.ones((3, 4, 4)), views, affines, (2, 2))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="samples: expected a whole number of at least 1, found 1.5"):
        align(torch.ones(3, 4, 4), views, affines, (2, 2), samples=1.5)  # type: ignore[arg-type]


@given(seeds, st.floats(0, 1), st.booleans(), st.booleans())
def test_bounds_part_what_is_seen(seed: int, cut: float, along_y: bool, oblique: bool) -> None:
    maps, views, affines = random_maps(seed, (4, 5)), random_views(seed, low=-0.1, high=1.1), random_crops(seed)
    affines[:, 0, 1] += 0.2 * oblique
    bounds = torch.tensor([[0.0, 0, 1, 1]] * 2).double()
    bounds[0, 2 + int(along_y)] = bounds[1, int(along_y)] = cut
    near, far = (align(maps, views, affines, (3, 4), bounds=part.expand(3, 4)) for part in bounds)
    np.testing.assert_allclose(near + far, align(maps, views, affines, (3, 4)), atol=1e-5)


def test_bounds_end_in_the_middle_of_a_token() -> None:
    bounds = torch.tensor([[0.25, 0, 0.75, 0.5]])
    tokens = align(torch.ones(1, 4, 4), WHOLE[None], IDENTITY[None], (2, 2), bounds=bounds)
    np.testing.assert_allclose(tokens, [[[2, 2], [0, 0]]])


@given(seeds, grids)
def test_refined_cells_keep_their_mass(seed: int, size: tuple[int, int]) -> None:
    maps = random_maps(seed, size) * (random_maps(seed + 1, size) < 0.5)
    fine = refine(maps)
    assert fine.shape == (3, 2 * size[0], 2 * size[1])
    assert (fine >= 0).all()
    np.testing.assert_allclose(fine.unfold(1, 2, 2).unfold(2, 2, 2).sum((3, 4)), maps, atol=1e-6)


@given(seeds, grids)
def test_refining_knows_no_direction(seed: int, size: tuple[int, int]) -> None:
    maps = random_maps(seed, size)
    np.testing.assert_allclose(refine(maps.flip(2)), refine(maps).flip(2), atol=1e-6)
    np.testing.assert_allclose(refine(maps.flip(1)), refine(maps).flip(1), atol=1e-6)


def test_a_cell_leans_towards_its_heavier_neighbour() -> None:
    fine = refine(torch.tensor([[[0.0, 4, 8, 8]]]))
    np.testing.assert_allclose(fine[0, 0], [0.0, 0, 0.5, 1.5, 1.75, 2.25, 2, 2])
