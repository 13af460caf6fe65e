"""Loss of per-token targets (TokenLabeling, arXiv 2104.10858; TokenMix, Table 2)."""

from __future__ import annotations

import torch
from torch import nn

from tokenmix_loader.batch import SoftLabels, TokenTargets
from tokenmix_loader.shapes import require_number, require_shape


class TokenLabelLoss(nn.Module):
    """Cross-entropy of the class logits, plus `weight` times that of the tokens' logits."""

    def __init__(self, weight: float = 0.5) -> None:
        super().__init__()
        require_number("TokenLabelLoss: weight", weight, "a number of at least 0", 0)
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
