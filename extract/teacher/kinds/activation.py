"""Kind activation: per token the L2 norm over channels, whatever the class."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from extract.teacher.kinds.base import mean_of
from extract.teacher.kinds.from_tokens import TokenKind
from extract.teacher.protocol import Maps


class Activation(TokenKind):
    """Works with any route."""

    name = "activation"
    datasets = ("activation",)

    def make(self, views: Sequence[torch.Tensor], outputs: torch.Tensor) -> Maps:
        """As in TokenKind."""
        del outputs
        return Maps({"activation": mean_of([tokens.norm(dim=3) for tokens in views])}, self.predictions(views))
