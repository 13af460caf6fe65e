"""Kind label: per token the logit of one output."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from extract.teacher.kinds.base import mean_of, top1_of
from extract.teacher.kinds.from_tokens import TokenKind
from extract.teacher.protocol import Maps


class Label(TokenKind):
    """Works with any route."""

    name = "label"
    datasets = ("label_logit",)

    def make(self, views: Sequence[torch.Tensor], outputs: torch.Tensor) -> Maps:
        """As in TokenKind."""
        found = [self.route.output_logits(tokens, outputs) for tokens in views]
        return Maps({"label_logit": mean_of([output for output, _ in found])}, top1_of([image for _, image in found]))
