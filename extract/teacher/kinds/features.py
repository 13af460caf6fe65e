"""Kind features: the channels of every token, and beside them the head that turns them into logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from extract.settings import TeacherSpec
from extract.teacher.kinds.base import mean_of
from extract.teacher.kinds.from_tokens import TokenKind
from extract.teacher.protocol import Maps


class Features(TokenKind):
    """The head is stored as a matrix, so it must be affine."""

    name = "features"
    datasets = ("features",)
    forms = ("affine",)
    needs = "a head that is affine after average pooling"

    def __init__(self, model: torch.nn.Module, spec: TeacherSpec, input_size: tuple[int, int]):
        """As in TokenKind."""
        super().__init__(model, spec, input_size)
        self.depth = self.route.channels

    def make(self, views: Sequence[torch.Tensor], outputs: torch.Tensor) -> Maps:
        """As in TokenKind."""
        del outputs
        return Maps({"features": mean_of(views).permute(0, 3, 1, 2)}, self.predictions(views))

    @torch.no_grad()
    def head(self) -> tuple[torch.Tensor, torch.Tensor]:
        """As in Kind."""
        weight, bias = self.route.head()
        return weight.float().cpu(), bias.float().cpu()
