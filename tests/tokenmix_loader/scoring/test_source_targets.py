import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenmix_loader import mix_targets, sample_masks
from tokenmix_loader.batch import TokenSources
from tokenmix_loader.scoring.source_targets import source_targets

SEEDS = st.integers(0, 2**32 - 1)


def in_place(masks: torch.Tensor) -> TokenSources:
    """The sources that a mask means: image i where it is True, else its partner, the batch in reverse order."""
    batch, gh, gw = masks.shape
    own = torch.arange(batch)
    image = torch.stack((own, own.flip(0)), dim=1)[:, :, None, None].expand(batch, 2, gh, gw)
    token = torch.arange(gh * gw).view(gh, gw).expand(batch, 2, gh, gw)
    return TokenSources(image, token, torch.stack((masks, ~masks), dim=1).float())


@given(SEEDS, st.integers(1, 5), st.sampled_from(["tokenmix", "area"]), st.sampled_from([0.0, 1e-3, 1.0]))
def test_of_two_images_and_a_mask_they_are_mix_targets(seed: int, batch: int, supervision: str, scale: float) -> None:
    rng = np.random.default_rng(seed)
    tokens = scale * torch.from_numpy(rng.gamma(0.2, size=(batch, 3, 4))).float()
    masks = sample_masks(rng, batch, (3, 4), "random", beta=(1, 1))
    labels = torch.from_numpy(rng.integers(3, size=batch))
    partner = torch.arange(batch).flip(0)
    expected = mix_targets(tokens, masks, labels, partner, 3, smoothing=0.2, supervision=supervision)
    found = source_targets(tokens, in_place(masks), labels, 3, smoothing=0.2, supervision=supervision)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert found.dtype == torch.float32


def test_tokens_that_moved_are_worth_what_they_show() -> None:
    """Image 0's evidence is in token 3, which comes to token 0; token 1 is half image 1's and half image 2's."""
    tokens = torch.tensor([[[0.0, 0], [0.1, 0.3]], [[0.2, 0.2], [0, 0]], [[0, 0.5], [0, 0]]])
    image = torch.tensor([[[0, 1], [0, 0]], [[0, 2], [0, 0]]]).expand(3, 2, 2, 2)
    token = torch.tensor([[[3, 1], [0, 1]], [[0, 1], [0, 0]]]).expand(3, 2, 2, 2)
    weight = torch.tensor([[[1, 0.5], [1, 1]], [[0, 0.5], [0, 0]]]).expand(3, 2, 2, 2)
    sources = TokenSources(image, token, weight)
    found = source_targets(tokens, sources, torch.tensor([0, 1, 2]), 4, smoothing=0.0)
    torch.testing.assert_close(found[0], torch.tensor([0.75, 0.25, 0.5, 0]))
    by_area = source_targets(tokens, sources, torch.tensor([0, 1, 2]), 4, smoothing=0.0, supervision="area")
    torch.testing.assert_close(by_area[0], torch.tensor([0.75, 0.125, 0.125, 0]))
    equal = source_targets(tokens, sources, torch.tensor([2, 2, 2]), 4, smoothing=0.0)
    torch.testing.assert_close(equal[0], torch.tensor([0, 0, 1.0, 0]))
    smoothed = source_targets(tokens, sources, torch.tensor([0, 1, 2]), 4, smoothing=0.2)
    torch.testing.assert_close(smoothed[0], 0.8 * found[0] + 0.2 * 1.5 / 4)


def test_what_holds_too_little_evidence_counts_by_area() -> None:
    tokens = torch.tensor([[[0.001, 0.001]], [[0.5, 0.1]]])
    sources = in_place(torch.tensor([[[True, False]], [[True, False]]]))
    found = source_targets(tokens, sources, torch.tensor([0, 1]), 2, smoothing=0.0, min_evidence=0.003)
    torch.testing.assert_close(found, torch.tensor([[0.5, 1 / 6], [0.5, 5 / 6]]))


def test_wrong_arguments_are_refused() -> None:
    tokens, sources = torch.ones(2, 2, 2), in_place(torch.ones(2, 2, 2, dtype=torch.bool))
    labels = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="labels: expected 0 to 0, found 0 to 1"):
        source_targets(tokens, sources, labels, 1)
    with pytest.raises(ValueError, match=r"labels: expected shape \[2\]"):
        source_targets(tokens, sources, labels[:1], 2)
    with pytest.raises(ValueError, match=r"sources: expected shape \[2, any, 3, 2\]"):
        source_targets(torch.ones(2, 3, 2), sources, labels, 2)
    with pytest.raises(ValueError, match="supervision: expected one of tokenmix, area"):
        source_targets(tokens, sources, labels, 2, supervision="relabel")
    with pytest.raises(ValueError, match="smoothing: expected a share"):
        source_targets(tokens, sources, labels, 2, smoothing=2)
