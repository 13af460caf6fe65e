"""Spreading a map over tokens that look alike.

A classifier's evidence lies on the parts that tell classes apart, a head or a wheel, while a score needs the whole
object. Tokens of one object have similar features, so the map takes some steps of a random walk between tokens that
look alike, as in affinity-based segmentation (Ahn and Kwak, CVPR 2018, section 3.3), with the similarity of the
teacher's own features in the place of a learnt one. docs/evidence.md has what it is worth and what else was tried.
"""

from __future__ import annotations

import torch

POWER = 4  # of the likeness: what is half as alike counts a sixteenth
STEPS = 3
ROUNDING = 1e-5  # of a token's norm: differences from the mean that are less are none


def likeness(features: torch.Tensor) -> torch.Tensor:
    """Features [B, C, h, w] -> the cosine of what each two tokens have beyond the image's mean, [B, hw, hw]."""
    tokens = features.flatten(2)
    apart = tokens - tokens.mean(2, keepdim=True)
    norm = apart.norm(dim=1, keepdim=True)
    apart = torch.where(norm > ROUNDING * tokens.norm(dim=1, keepdim=True), apart / norm, 0)
    return apart.mT @ apart


def transitions(alike: torch.Tensor, power: float = POWER) -> torch.Tensor:
    """Likeness [B, n, n] -> probabilities of a walker's next token by the one where it stands; rows sum to 1.

    Tokens that are unlike, below 0, are never next; one that is like no other is like itself. The memory of `alike` is
    used again.
    """
    weights = alike.clamp_min_(0).pow_(power)
    weights.diagonal(dim1=1, dim2=2).fill_(1)
    return weights.div_(weights.sum(2, keepdim=True))


def spread(maps: torch.Tensor, transition: torch.Tensor, steps: int = STEPS) -> torch.Tensor:
    """Maps [B, h, w] -> their mean over the tokens to which a walk of so many steps leads, [B, h, w]; not scaled."""
    values = maps.flatten(1)[:, :, None]
    least = values.amin(1, keepdim=True)  # so that a constant map stays exactly that
    above = values - least
    for _ in range(steps):
        above = transition @ above
    return (above + least).reshape(maps.shape)
