"""The data types that travel between the sub-packages; they import nothing of the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import torch

Grid = tuple[int, int]  # (gh, gw) in tokens
Box = tuple[int, int, int, int]  # (top, bottom, left, right) in px
NO_MAP = -1  # the row of an image without a map
# The bounds of an image that was not transformed here: wider than any image, so that nothing is cut. A mixer that gets
# tensors with these bounds knows that a transform was applied later, which was not traced.
NOT_FOLLOWED = (-1.0, -1.0, 2.0, 2.0)
ANY_STORE = 0  # the store of an image without a map, and of targets made by hand, which are not checked


class MapTarget(NamedTuple):
    """A label and what is needed to look up its map; torch's default collate and pinning keep the type.

    `label`, `row`, `store`: int64, [] of one image and [B] of a batch; row -1 stands for an image without a map.
    `place` float64 [10] or [B, 10] holds `affine` and `bounds`. `store` says whose row it is (`Header.identities`): a
    batch with rows of another store than the one to be read is refused. A dataset gives numbers and a NumPy array for
    one image, which are cheaper to make; a batch consists of tensors.

    It is no tensor on purpose: where neither TokenMix nor TokenMixCollate made targets of it, a loss or a collate
    function that takes it for labels fails and says so, instead of training without maps.
    """

    label: torch.Tensor
    row: torch.Tensor
    place: torch.Tensor
    store: torch.Tensor = ANY_STORE  # type: ignore[assignment]  # a number will do, as for one image

    @property
    def affine(self) -> torch.Tensor:
        """[2, 3] or [B, 2, 3], see `align`."""
        return self.place[..., :6].reshape(*self.place.shape[:-1], 2, 3)

    @property
    def bounds(self) -> torch.Tensor:
        """[4] or [B, 4], see `align`."""
        return self.place[..., 6:]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> MapTarget:
        """The same on `device`, as tensors; of one image as well as of a batch."""
        return MapTarget(*(torch.as_tensor(part).to(device, non_blocking=non_blocking) for part in self))

    def __getattr__(self, name: str) -> NoReturn:
        """Whatever labels have and this has not: `ndim`, `cuda`, `unsqueeze`, ..."""
        raise AttributeError(_never_mixed(f"something that asks for its {name!r}"))

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], *_: Any) -> NoReturn:
        """torch calls this for a function that got a MapTarget, as a loss does."""
        raise TypeError(_never_mixed(f"it in a call of torch's {getattr(func, '__name__', func)}"))


def _never_mixed(found: str) -> str:
    return (
        f"MapTarget: expected TokenMix or TokenMixCollate to make targets of it, found {found}; give the loader "
        "TokenMixCollate, or each batch to TokenMix (timm's train.py asks for neither unless --mixup or --cutmix is "
        "above 0)"
    )


class TokenSources(NamedTuple):
    """Where each token of each mixed image comes from: S tokens of the unmixed batch, with shares that sum to 1.

    Token p of image i shows, with share `weight` [B, S, gh, gw] (float32), token `token` (int64, row-major) of image
    `image` (int64). So images may be mixed of more than two, and tokens may have moved.
    """

    image: torch.Tensor
    token: torch.Tensor
    weight: torch.Tensor


class Draw(NamedTuple):
    """What chance decided for one batch. Partners are the batch in reverse order, as in timm.

    `share`: how much of image a is in every pixel. `masks` [B, gh, gw]: how much of each token comes from a, in
    TokenMix all (True) or nothing. `box` (top, bottom, left, right) in px: what CutMix takes from b. `sources`: of
    masks that are an optimum, which say where each token comes from.
    """

    share: float = 1.0
    masks: torch.Tensor | None = None
    box: Box | None = None
    sources: TokenSources | None = None


class SoftLabels(NamedTuple):
    """Probabilities of T tokens over K classes, of which U are listed; all other classes share the probability `rest`.

    `classes` int64 [B, U]: the listed ones, each image's own, filled up with zeros. `rest` float32 [B, T]: the
    probability of each class that is not listed. `excess` float32 [B, T, U]: by how much that of a listed one is above
    `rest`; zero where the list is filled up.
    """

    classes: torch.Tensor
    excess: torch.Tensor
    rest: torch.Tensor

    def dense(self, num_classes: int) -> torch.Tensor:
        """Float32 [B, T, K], each token's summing to 1."""
        everywhere = self.rest[..., None].expand(-1, -1, num_classes).contiguous()
        return everywhere.scatter_add_(2, self.classes[:, None].expand_as(self.excess), self.excess)

    def partners(self) -> SoftLabels:
        """Those of the batch in reverse order."""
        return SoftLabels(*(part.flip(0) for part in self))


class TokenTargets(NamedTuple):
    """Targets of a batch mixed with itself in reverse order; T tokens in row order.

    `label` float32 [B, K] is the class token's. Token t of image i has the share `share` [B, T] of its own
    probabilities and 1 - share of its partner's; `classes`, `excess` and `rest` are `SoftLabels` of the unmixed
    images, which are much smaller than dense [B, T, K].
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
