from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tokenmix_loader import CoMixSettings
from tokenmix_loader.compiled import door
from tokenmix_loader.mixing.optimal.comix import batch_energy, comix_sources, mix_part, place_distances

SEEDS = st.integers(0, 2**32 - 1)
CHOSEN = CoMixSettings()
Doubles = npt.NDArray[np.float64]


def part(seed: int, inputs: int, blocks: int) -> tuple[Doubles, Doubles, Doubles]:
    rng = np.random.default_rng(seed)
    guide = rng.gamma(0.5, size=(inputs, blocks, blocks))
    distances = place_distances(torch.from_numpy(guide))
    return guide / guide.sum(axis=(1, 2), keepdims=True), rng.dirichlet(np.full(inputs, 2.0), inputs), distances


@hypothesis_settings(max_examples=12)
@given(SEEDS, st.integers(1, 5), st.sampled_from([2, 3]))
def test_the_energy_never_rises_from_pass_to_pass(seed: int, inputs: int, blocks: int) -> None:
    problem = part(seed, inputs, blocks)
    found = [
        batch_energy(*problem, mix_part(*problem, replace(CHOSEN, passes=passes)), CHOSEN) for passes in (1, 2, 3, 4)
    ]
    assert (np.diff(found) <= 1e-9).all()


def test_the_energy_of_two_outputs_by_hand() -> None:
    """Four blocks: output 0 shows image 0 alone, output 1 half of both everywhere."""
    saliency = np.array([[[0.1, 0.2], [0.3, 0.4]], [[0.25, 0.25], [0.25, 0.25]]])
    contents = np.array([np.zeros((2, 2, 2)), np.broadcast_to((0, 1), (2, 2, 2))]).astype(int)
    shares, distances = np.array([[0.5, 0.5], [0.2, 0.8]]), np.array([[0, 1.0], [1, 0]])
    chosen = CoMixSettings(beta=9, gamma=3, tau=0.25, omega=0.5, eta=0.1)
    # Output 0 has 4 blocks of image 0, output 1 has 2 of each image; half of each counts for the other image, too.
    alike = np.array([[0.5, 0.5], [0.5, 0.5]])
    overlap = 3 * (4 * max(1, alike[0] @ [2, 2]) + 2 * max(1, alike[0] @ [4, 0]) + 2 * max(1, alike[1] @ [4, 0]))
    prior = -0.1 * 16 / 4 * (4 * np.log(0.5) + 2 * np.log(0.2) + 2 * np.log(0.8))
    found = batch_energy(saliency, shares, distances, contents, chosen)
    assert found == pytest.approx(-1 - 1 + prior + overlap)


def blobs(seed: int, batch: int, grid: tuple[int, int]) -> torch.Tensor:
    """One object each, anywhere."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: grid[0], : grid[1]]
    top, left = (rng.uniform(0, side, (batch, 1, 1)) for side in grid)
    return torch.from_numpy(np.exp(-((y - top) ** 2 + (x - left) ** 2) / 4) + 0.01).float()


def test_outputs_mix_images_differ_and_leave_none_out() -> None:
    batch = 8
    found = comix_sources(np.random.default_rng(0), blobs(0, batch, (4, 4)), CHOSEN)
    torch.testing.assert_close(found.weight.sum(dim=1), torch.ones(batch, 4, 4))
    assert torch.equal(found.token[0, 0], torch.arange(16).view(4, 4))
    shown = torch.zeros(batch, batch)
    for output in range(batch):
        shown[output].scatter_add_(0, found.image[output].flatten(), found.weight[output].flatten())
    assert (shown > 0).sum(dim=1).double().mean() >= 2
    assert (shown.sum(dim=0) > 0.5 * 16).all()
    assert (shown.sum(dim=0) < 1.6 * 16).all()
    assert len({tuple(each.flatten().tolist()) for each in found.image}) == batch


def test_evidence_is_kept_rather_than_lost() -> None:
    """More of the objects than their share of the area stays visible."""
    guide = blobs(1, 8, (4, 4))
    found = comix_sources(np.random.default_rng(0), guide, CHOSEN)
    shares = guide.flatten(1) / guide.sum(dim=(1, 2))[:, None]
    seen = (shares[found.image, found.token] * found.weight).sum() / 8
    assert seen > 1.3


@pytest.mark.parametrize(("batch", "part_size"), [(1, 16), (2, 16), (5, 2), (7, 3)])
def test_a_part_mixes_nothing_but_itself(batch: int, part_size: int) -> None:
    found = comix_sources(np.random.default_rng(0), blobs(2, batch, (4, 4)), replace(CHOSEN, part=part_size))
    parts = np.array_split(np.arange(batch), -(-batch // part_size))
    for images in parts:
        assert set(found.image[images[0] : images[-1] + 1].flatten().tolist()) <= set(images.tolist())


def test_compiled_and_scipy_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    guide = blobs(3, 5, (4, 4))
    ours = comix_sources(np.random.default_rng(3), guide, CHOSEN)
    monkeypatch.setattr(door, "_load", lambda: None)
    theirs = comix_sources(np.random.default_rng(3), guide, CHOSEN)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert (ours.weight == 0.5).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tau": -1}, "CoMixSettings: tau: expected a number of at least 0"),
        ({"omega": 2}, "CoMixSettings: omega: expected a share"),
        ({"passes": 0}, "CoMixSettings: passes: expected at least 1"),
        ({"blocks": 3}, "blocks: expected divisors of the 4 x 4 grid, 2, 4, found 3"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        comix_sources(np.random.default_rng(0), blobs(0, 2, (4, 4)), CoMixSettings(**settings))
