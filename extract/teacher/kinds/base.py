"""What every kind has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch

from extract.settings import TeacherSpec
from extract.teacher.protocol import Maps
from extract.teacher.tokens.centres import WHOLE, TokenView
from store.spec import Json


class Kind(ABC):
    """The maps of one kind, as one model makes them; the subclass refuses a model that cannot."""

    name: ClassVar[str]
    datasets: ClassVar[tuple[str, ...]]  # its payload, as in store/spec.py
    options: ClassVar[frozenset[str]] = frozenset()  # the fields of TeacherSpec that no other kind takes

    grid: tuple[int, int]
    input_size: tuple[int, int]  # height and width in px of the images that `maps` takes
    depth: int = 1  # planes of a row
    # What the grid covers of the network's input; measured by a kind whose tokens may not tile it, see centres.py.
    token_view: TokenView = TokenView(WHOLE, "")

    @abstractmethod
    def __init__(self, model: torch.nn.Module, spec: TeacherSpec, input_size: tuple[int, int]):
        """`model`: on the CPU; `input_size`: height and width in px. Raises TeacherError."""

    @abstractmethod
    def maps(self, images: torch.Tensor, outputs: torch.Tensor, *, flipped: bool) -> Maps:
        """Normalised images [B, 3, H, W], the model's output to map in each [B] -> float32 maps.

        `flipped`: averaged with the map of the mirror image, mirrored back.
        """

    @abstractmethod
    def header(self) -> dict[str, Json]:
        """Its part of the header's `teacher` field: `route` for people, and its options by name."""

    def head(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Weight [K, C] and bias [K] that turn the maps into logits, where the kind has them stored beside."""
        return None


def mean_of(views: Sequence[torch.Tensor]) -> torch.Tensor:
    """Of the image's and, if there is one, the mirror image's."""
    return views[0] if len(views) == 1 else torch.stack(tuple(views)).mean(0)


def top1_of(logits: Sequence[torch.Tensor]) -> torch.Tensor:
    """Logits [B, K] of each view -> the largest output [B]."""
    return mean_of(logits).argmax(1)
