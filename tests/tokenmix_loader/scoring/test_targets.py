from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy

from tokenmix_loader import evidence, mix_targets, sample_masks
from tokenmix_loader.scoring.evidence import normalise
from tokenmix_loader.scoring.targets import dense_targets, mix_scores

pytestmark = pytest.mark.usefixtures("arithmetic")

SEEDS = st.integers(0, 2**32 - 1)


def random_batch(seed: int, batch: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens of maps of mass 1, some crops of which hold nothing; masks; partners."""
    rng = np.random.default_rng(seed)
    tokens = normalise(torch.from_numpy(rng.gamma(0.2, size=(batch, 7, 7)).astype(np.float32)))
    tokens *= torch.from_numpy(rng.choice([0, 0.001, 1], (batch, 1, 1)).astype(np.float32))
    masks = sample_masks(rng, batch, (7, 7), beta=(1, 1))
    return tokens, masks, torch.from_numpy(rng.permutation(batch))


def test_logit_evidence_drops_the_negative_part_of_any_input() -> None:
    maps = np.array([[[-1, 2], [0, 0.5]]], np.float16)
    expected = [[[0, 2], [0, 0.5]]]
    for given_maps in (maps, maps.astype(np.float32), torch.from_numpy(maps)):
        result = evidence(given_maps)
        assert result.dtype == torch.float32
        assert result.tolist() == expected


@given(SEEDS, st.floats(-5, 5), st.floats(0.1, 10))
def test_contrast_evidence_depends_on_neither_level_nor_scale(seed: int, level: float, scale: float) -> None:
    maps = np.random.default_rng(seed).normal(size=(3, 5, 5)).astype(np.float32)
    plain, changed = evidence(maps, "contrast"), evidence(np.float32(scale) * maps + np.float32(level), "contrast")
    np.testing.assert_allclose(normalise(changed), normalise(plain), atol=1e-4)
    assert (plain >= 0).all()


@given(SEEDS, st.integers(1, 35))
def test_contrast_evidence_finds_an_object_of_any_size(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    is_object = rng.permutation(36).reshape(1, 6, 6) < size
    maps = np.where(is_object, 3, 1) + rng.uniform(-0.1, 0.1, (1, 6, 6))
    result = evidence(maps.astype(np.float32), "contrast")
    np.testing.assert_array_equal(result > 0, is_object)
    np.testing.assert_allclose(result[0][is_object[0]], 2, atol=0.3)


@pytest.mark.parametrize("shape", [(2, 4, 4), (2, 1, 1)])
def test_contrast_evidence_of_a_flat_map_is_none(shape: tuple[int, int, int]) -> None:
    assert evidence(np.full(shape, 0.1, np.float32), "contrast").sum() == 0


def test_evidence_refuses_what_it_cannot_read() -> None:
    with pytest.raises(ValueError, match="kind: expected one of logit, contrast, found 'loud'"):
        evidence(np.zeros((1, 2, 2), np.float16), "loud")
    with pytest.raises(ValueError, match="shape"):
        evidence(np.zeros((2, 2), np.float16))
    with pytest.raises(ValueError, match="inf or nan"):
        evidence(np.full((1, 2, 2), np.inf, np.float16))


def test_normalise_leaves_an_empty_map_empty() -> None:
    maps = torch.stack((torch.zeros(2, 2), torch.full((2, 2), 3.0)))
    assert normalise(maps).sum((1, 2)).tolist() == [0, 1]


@given(SEEDS, st.sampled_from(["tokenmix", "area"]))
def test_scores_are_shares_and_complementary_masks_share_an_image(seed: int, supervision: str) -> None:
    tokens, masks, _ = random_batch(seed)
    itself = torch.arange(len(tokens))
    kept, pasted = mix_scores(tokens, masks, itself, supervision=supervision)
    assert ((kept >= 0) & (kept <= 1) & (pasted >= 0) & (pasted <= 1)).all()
    np.testing.assert_allclose(kept + pasted, 1, atol=1e-5)


@given(SEEDS, st.floats(0, 1), st.sampled_from(["tokenmix", "area"]))
def test_targets_lie_between_0_and_1_and_smoothing_keeps_their_sum(
    seed: int, smoothing: float, supervision: str
) -> None:
    tokens, masks, partner = random_batch(seed)
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, 4, len(tokens)))
    sharp, smooth = (
        mix_targets(tokens, masks, labels, partner, 4, smoothing=share, supervision=supervision)
        for share in (0.0, smoothing)
    )
    assert ((smooth >= 0) & (smooth <= 1)).all()
    np.testing.assert_allclose(smooth.sum(1), sharp.sum(1), atol=1e-5)
    np.testing.assert_allclose(smooth, (1 - smoothing) * sharp + smoothing * sharp.sum(1, True) / 4, atol=1e-5)


def test_eq_2_by_hand() -> None:
    """Image 0's evidence is 3/4 in the kept left half; image 1's is all in the left half, which is not pasted."""
    tokens = torch.tensor([[[0.5, 0.25], [0.25, 0]], [[0.5, 0], [0.5, 0]]])
    masks = torch.tensor([[[True, False], [True, False]]] * 2)
    targets = mix_targets(tokens, masks, torch.tensor([2, 0]), torch.tensor([1, 0]), 3, smoothing=0)
    np.testing.assert_allclose(targets, [[0.0, 0.0, 0.75], [1.0, 0.0, 0.25]])


def test_a_crop_with_too_little_evidence_is_scored_by_area() -> None:
    tokens = torch.zeros(2, 2, 2)
    tokens[:, 0, 0] = torch.tensor([0.02, 0.5])
    masks = torch.tensor([[[True, True], [True, False]]] * 2)
    score, pasted = mix_scores(tokens, masks, torch.tensor([1, 0]), min_evidence=0.1)
    assert score.tolist() == [0.75, 1]
    assert pasted.tolist() == [0, 0.25]
    assert mix_scores(tokens, masks, torch.tensor([1, 0]), min_evidence=0.01)[0].tolist() == [1, 1]


def test_equal_labels_add_up_to_1_at_most() -> None:
    labels = (torch.tensor([1, 1]), torch.tensor([1, 1]))
    targets = dense_targets((torch.tensor([0.9, 0.3]), torch.tensor([0.8, 0.2])), labels, 2, smoothing=0)
    np.testing.assert_allclose(targets, [[0.0, 1.0], [0.0, 0.5]])


def test_timm_s_losses_take_the_targets() -> None:
    tokens, masks, partner = random_batch(3)
    targets = mix_targets(tokens, masks, torch.arange(6), partner, 10)
    logits = torch.zeros(6, 10, requires_grad=True)
    for loss in (SoftTargetCrossEntropy(), BinaryCrossEntropy(smoothing=0)):
        loss(logits, targets).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("label", [-1, 10])
def test_labels_outside_of_the_classes_are_refused(label: int) -> None:
    tokens, masks, partner = random_batch(0)
    with pytest.raises(ValueError, match=f"labels: expected 0 to 9, found .*{label}"):
        mix_targets(tokens, masks, torch.tensor([0, 1, 2, 3, 4, label]), partner, 10)


@pytest.mark.parametrize("supervision", ["tokenmix", "area"])
@pytest.mark.parametrize("count", [0, 1, 5, 7])
def test_another_number_of_labels_is_refused(count: int, supervision: str) -> None:
    """Before the compiled loop, which would read beyond the labels."""
    tokens, masks, partner = random_batch(0)
    with pytest.raises(ValueError, match=rf"mix_targets: labels: expected shape \[6\], found \[{count}\]"):
        mix_targets(tokens, masks, torch.zeros(count).long(), partner, 10, supervision=supervision)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"tokens": np.ones((6, 7, 7))}, TypeError, "mix_scores: tokens: expected a tensor, found ndarray"),
        ({"labels": [0] * 6}, TypeError, "mix_targets: labels: expected a tensor, found list"),
        ({"labels": torch.full((6,), 0.5)}, ValueError, "labels: expected whole numbers, found torch.float32"),
        ({"masks": torch.full((6, 7, 7), 255.0)}, ValueError, "masks: expected bool, or shares in 0 to 1"),
        ({"partner": torch.arange(6) - 1}, IndexError, "partner: expected 0 to 5, found -1 to 4"),
        ({"partner": torch.arange(6) + 1}, IndexError, "partner: expected 0 to 5, found 1 to 6"),
        ({"min_evidence": 2}, ValueError, "min_evidence: expected a share from 0 to 1, found 2"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    tokens, masks, partner = random_batch(0)
    given: dict[str, Any] = {
        "tokens": tokens,
        "masks": masks,
        "labels": torch.arange(6),
        "partner": partner,
        "num_classes": 6,
    }
    with pytest.raises(error, match=message):
        mix_targets(**given | changed)


def test_masks_on_another_grid_are_refused() -> None:
    tokens, masks, partner = random_batch(0)
    with pytest.raises(ValueError, match=r"masks: expected shape \[6, 7, 7\], found \[6, 6, 7\]"):
        mix_scores(tokens, masks[:, 1:], partner)
    with pytest.raises(ValueError, match="supervision: expected one of"):
        mix_scores(tokens, masks, partner, supervision="cutmix")
