"""Targets for every token of a mixed image, and their loss (TokenLabeling, arXiv 2104.10858; TokenMix, Table 2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from tokenmix_loader.scoring.soft_labels import SoftLabels
from tokenmix_loader.shapes import require_shape


class TokenTargets(NamedTuple):
    """Targets of a batch mixed with itself in reverse order; T tokens in row order.

    `label` float32 [B, K] is the class token's. Token t of image i has the share `share` [B, T] of its own
    probabilities and 1 - share of its partner's; `classes`, `excess` and `rest` are `SoftLabels` of the unmixed
    images: of [B, T, K] only what stands out is kept.
    """

    label: torch.Tensor
    share: torch.Tensor
    classes: torch.Tensor
    excess: torch.Tensor
    rest: torch.Tensor

    @property
    def own(self) -> SoftLabels:
        """Of the unmixed images."""
        return SoftLabels(self.classes, self.excess, self.rest)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TokenTargets:
        """The same on `device`."""
        return TokenTargets(*(part.to(device, non_blocking=non_blocking) for part in self))

    def dense(self) -> torch.Tensor:
        """The tokens' targets as float32 [B, T, K], which sum to 1."""
        own, share = self.own.dense(self.label.shape[1]), self.share[..., None]
        return share * own + (1 - share) * own.flip(0)


class TokenLabelLoss(nn.Module):
    """Cross-entropy of the class logits, plus `weight` times that of the tokens' logits."""

    def __init__(self, weight: float = 0.5) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, logits: torch.Tensor, token_logits: torch.Tensor, targets: TokenTargets) -> torch.Tensor:
        """Scalar loss of `logits` [B, K] and `token_logits` [B, T, K]; ValueError for other shapes."""
        if not isinstance(targets, TokenTargets):
            raise TypeError(
                f"TokenLabelLoss: expected TokenTargets, found {type(targets).__name__}; mix with "
                "supervision='tokenlabeling'"
            )
        batch, tokens = targets.share.shape
        classes = targets.label.shape[1]
        require_shape("TokenLabelLoss: logits", logits, (batch, classes), "pass the class token's logits, [B, K]")
        shape = (batch, tokens, classes)
        require_shape(
            "TokenLabelLoss: token_logits", token_logits, shape, "pass [B, gh * gw, K], without the class token"
        )
        by_class = -(targets.label * logits.float().log_softmax(dim=1)).sum(dim=1).mean()
        scores = token_logits.float().log_softmax(dim=2)
        total = scores.sum(dim=2)
        own, partners = (_cross_entropy(scores, total, soft) for soft in (targets.own, targets.own.partners()))
        by_token = torch.lerp(partners, own, targets.share).mean()
        return by_class + self.weight * by_token


def _cross_entropy(scores: torch.Tensor, total: torch.Tensor, soft: SoftLabels) -> torch.Tensor:
    """[B, T], of log-probabilities [B, T, K], their sum over classes [B, T] and the targets."""
    listed = scores.gather(2, soft.classes[:, None].expand_as(soft.excess))
    return -(soft.excess * listed).sum(dim=2) - soft.rest * total
