"""Kind features: the channels of every token, and beside them the head that turns them into logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from extract.errors import TeacherError
from extract.settings import TeacherSpec
from extract.teacher.kinds.base import mean_of
from extract.teacher.kinds.from_tokens import TokenKind
from extract.teacher.protocol import Maps
from extract.teacher.routes import Route


class Features(TokenKind):
    """Needs an affine head, which is stored as a matrix."""

    name = "features"
    datasets = ("features",)

    def __init__(self, model: torch.nn.Module, spec: TeacherSpec, input_size: tuple[int, int]):
        """As in TokenKind."""
        super().__init__(model, spec, input_size)
        self.depth = self.route.channels

    def refuse(self, route: Route) -> None:
        """As in TokenKind."""
        if route.form != "affine":
            raise TeacherError(
                f"--kind features: expected a head that is affine after average pooling, found {route}; "
                "use --kind label"
            )

    def make(self, views: Sequence[torch.Tensor], outputs: torch.Tensor) -> Maps:
        """As in TokenKind."""
        del outputs
        return Maps({"features": mean_of(views).permute(0, 3, 1, 2)}, self.predictions(views))

    @torch.no_grad()
    def head(self) -> tuple[torch.Tensor, torch.Tensor]:
        """As in Kind."""
        weight, bias = self.route.head()
        return weight.float().cpu(), bias.float().cpu()
