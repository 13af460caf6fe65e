"""Spreading a map over tokens that look alike.

A classifier's evidence lies on the parts that tell classes apart, a head or a wheel, while a score needs the whole
object. Tokens of one object have similar features, so the map takes some steps of a random walk between tokens that
look alike, as in affinity-based segmentation (Ahn and Kwak, CVPR 2018, section 3.3), with the similarity of the
teacher's own features in the place of a learnt one. docs/evidence.md has what it is worth and what else was tried.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

POWER = 4  # of the likeness: what is half as alike counts a sixteenth
STEPS = 3


def spread(maps: torch.Tensor, features: Sequence[torch.Tensor]) -> torch.Tensor:
    """Maps [B, h, w] -> their mean over like tokens, STEPS times, [B, h, w]; not scaled.

    `features`: of each view of the images, [B, C, h, w] float32.
    """
    steps = transitions(features)
    values = maps.flatten(1)[:, :, None]
    for _ in range(STEPS):
        values = steps @ values
    return values.reshape(maps.shape)


def transitions(features: Sequence[torch.Tensor], power: float = POWER) -> torch.Tensor:
    """Of a walker's next token, the probabilities [B, tokens, tokens] by the token where it stands; rows sum to 1.

    The likeness of two tokens is the cosine of what their features have beyond the mean of the image's, averaged over
    views, at least 0. A token that is like no other is like itself.
    """
    count = features[0].shape[2] * features[0].shape[3]
    likeness = features[0].new_zeros(len(features[0]), count, count)
    for view in features:
        tokens = view.flatten(2)
        tokens = functional.normalize(tokens - tokens.mean(2, keepdim=True), dim=1)
        likeness += tokens.mT @ tokens / len(features)
    likeness = likeness.clamp_min_(0).pow_(power)
    likeness.diagonal(dim1=1, dim2=2).fill_(1)
    return likeness / likeness.sum(2, keepdim=True)
