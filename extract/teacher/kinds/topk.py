"""Kind topk: per token the k largest logits, their outputs, and logsumexp over all outputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from extract.errors import TeacherError
from extract.settings import TeacherSpec
from extract.teacher.kinds.base import mean_of
from extract.teacher.kinds.from_tokens import TokenKind
from extract.teacher.protocol import Maps
from extract.teacher.tokens.routes import FORMS
from store.spec import Json

DEFAULT_TOP_K = 5
MAX_LOGITS = 1 << 26  # held at once: 256 MB of float32


class Topk(TokenKind):
    """Needs all outputs' logits of a token, which the gradient form does not give, and at least k of them."""

    name = "topk"
    datasets = ("topk_logit", "topk_class", "logsumexp")
    options = frozenset({"top_k"})
    forms = tuple(form for form in FORMS if form != "gradient")
    needs = "a head on single tokens"

    def __init__(self, model: torch.nn.Module, spec: TeacherSpec, input_size: tuple[int, int]):
        """As in TokenKind."""
        self.depth = spec.top_k or DEFAULT_TOP_K
        self.num_classes = int(model.num_classes)  # type: ignore[arg-type]
        if self.depth > self.num_classes:
            raise TeacherError(f"--top-k {self.depth}: expected at most the teacher's {self.num_classes} classes")
        super().__init__(model, spec, input_size)

    def header(self) -> dict[str, Json]:
        """As in TokenKind."""
        return {**super().header(), "top_k": self.depth}

    def make(self, views: Sequence[torch.Tensor], outputs: torch.Tensor) -> Maps:
        """As in TokenKind; a few images at a time, for the logits of all outputs are many."""
        del outputs
        at_once = max(1, MAX_LOGITS // (self.grid[0] * self.grid[1] * self.num_classes))
        parts = [self._make_part(part) for part in zip(*(torch.split(view, at_once) for view in views), strict=True)]
        *planes, prediction = (torch.cat(column) for column in zip(*parts, strict=True))
        return Maps(dict(zip(self.datasets, planes, strict=True)), prediction)

    def _make_part(self, views: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        logits = mean_of([self.route.all_logits(tokens) for tokens in views])
        largest, numbers = logits.topk(self.depth, dim=3)
        planes = largest.permute(0, 3, 1, 2), numbers.to(torch.int32).permute(0, 3, 1, 2)
        return *planes, logits.logsumexp(3), logits.mean((1, 2)).argmax(1)
