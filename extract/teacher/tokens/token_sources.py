"""Where a model's tokens are: how its features are laid out, and its tail, the function from one token to logits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch

MAX_MISSING = 3  # rows or columns by which convolutions without padding may make a map smaller
MAX_PREFIX = 16  # class and register tokens in front of the grid
POOL_TOLERANCE = 1e-5  # between a pooling layer's output and the mean of its input, of the largest value


@dataclass(frozen=True)
class TokenLayout:
    """In which order the dimensions of features stand, and which of them are the grid."""

    name: str  # NCHW, NHWC, or NLC for a sequence of tokens
    grid: tuple[int, int]  # h, w
    prefix: int = 0  # class and register tokens of a sequence, in front of the grid's
    repeated: bool = False  # `join` puts the token in every place, so that a head which reads the class token reads it

    def split(self, features: torch.Tensor) -> torch.Tensor:
        """Features -> tokens [B, h, w, C]."""
        if self.name == "NCHW":
            return features.permute(0, 2, 3, 1)
        if self.name == "NHWC":
            return features
        return features[:, self.prefix :].reshape(len(features), *self.grid, -1)

    def whole(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [B, h, w, C] -> features, with zeros for prefix tokens: `split` backwards."""
        if self.name == "NCHW":
            return tokens.permute(0, 3, 1, 2)
        if self.name == "NHWC":
            return tokens
        return torch.nn.functional.pad(tokens.flatten(1, 2), (0, 0, self.prefix, 0))

    def join(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [n, C] -> the features of n images that have one token each."""
        if self.repeated:
            return tokens[:, None].expand(-1, self.prefix + 1, -1)
        return self.whole(tokens[:, None, None])

    def __str__(self) -> str:
        return f"{self.name} after {self.prefix} prefix tokens" if self.prefix else self.name


def possible_layouts(features: object, input_size: tuple[int, int]) -> Iterator[TokenLayout]:
    """Every layout that the shape allows; routes.py finds out by its checks which one it is."""
    if not isinstance(features, torch.Tensor):
        return
    if features.ndim == 4:
        for name, first in (("NCHW", 2), ("NHWC", 1)):
            shape = features.shape[first], features.shape[first + 1]
            if _has_aspect_of(shape, input_size, MAX_MISSING):
                yield TokenLayout(name, shape)
    elif features.ndim == 3:
        for prefix in range(min(MAX_PREFIX + 1, features.shape[1])):
            grid = _grid_of(features.shape[1] - prefix, input_size)
            if grid is not None:
                yield TokenLayout("NLC", grid, prefix)


def _grid_of(tokens: int, input_size: tuple[int, int]) -> tuple[int, int] | None:
    """The grid h, w with this many tokens that has the input's aspect, if there is one."""
    height, width = input_size
    h = round(math.sqrt(tokens * height / width))
    if h < 1 or tokens % h:
        return None
    return (h, tokens // h) if _has_aspect_of((h, tokens // h), input_size, 1) else None


def _has_aspect_of(grid: tuple[int, int], input_size: tuple[int, int], missing: int) -> bool:
    """Whether the grid has the input's aspect, apart from up to `missing` rows or columns lost by rounding and padding.

    `input_size`: height and width in px.
    """
    (h, w), (height, width) = grid, input_size
    return abs(h * width - w * height) < missing * max(width, height)


class TokenSource(Protocol):
    """One way to a model's tokens and its tail."""

    layout: TokenLayout
    model: Any

    def tokens(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images [B, 3, H, W] -> tokens [B, h, w, C], as the model computes them."""

    def tail(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [n, C] -> logits [n, K]: the model's logits for an image that consists of this one token."""


class HeadSource:
    """`forward_features` gives the tokens, `forward_head` is the tail."""

    def __init__(self, model: torch.nn.Module, layout: TokenLayout):
        self.layout = layout
        self.model: Any = model

    def tokens(self, images: torch.Tensor) -> torch.Tensor:
        """As in TokenSource."""
        return self.layout.split(self.model.forward_features(images))

    def tail(self, tokens: torch.Tensor) -> torch.Tensor:
        """As in TokenSource."""
        logits: torch.Tensor = self.model.forward_head(self.layout.join(tokens))
        return logits

    def __str__(self) -> str:
        return f"tokens through forward_head, {self.layout}"


class MapSource(HeadSource):
    """As HeadSource, for a head that cannot take one token alone: the tail takes the whole map."""

    def tail(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [B, h, w, C] -> logits [B, K]; class tokens are zero, so a head that reads them gives other logits."""
        logits: torch.Tensor = self.model.forward_head(self.layout.whole(tokens))
        return logits

    def __str__(self) -> str:
        return f"map through forward_head, {self.layout}"


class PoolSource:
    """A pooling layer's input gives the tokens; the model behind it, with its output replaced, is the tail."""

    def __init__(self, model: torch.nn.Module, pool: str, layout: TokenLayout, shape: torch.Size):
        """`pool`: the layer's name; `shape`: of its output for one image."""
        self.layout = layout
        self.model: Any = model
        self._name, self._shape = pool, shape
        self._pool = model.get_submodule(pool)
        self._image: torch.Tensor | None = None

    def tokens(self, images: torch.Tensor) -> torch.Tensor:
        """As in TokenSource."""
        seen: list[torch.Tensor] = []
        handle = self._pool.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self.model(images)
        finally:
            handle.remove()
        self._image = images[:1]
        return self.layout.split(seen[-1])

    def tail(self, tokens: torch.Tensor) -> torch.Tensor:
        """As in TokenSource; runs the whole model on one image, of which only what follows the pooling counts."""
        assert self._image is not None, "tokens() comes first"
        replaced = tokens.reshape(-1, *self._shape)
        handle = self._pool.register_forward_hook(lambda *_: replaced)
        try:
            logits: torch.Tensor = self.model(self._image)
        finally:
            handle.remove()
        return logits

    def __str__(self) -> str:
        return f"input of the pooling layer {self._name}, {self.layout}"


def find_pool(model: torch.nn.Module, images: torch.Tensor) -> PoolSource | None:
    """The last layer whose output is the mean of its input over a grid of tokens, found by running the model."""
    found: list[PoolSource] = []
    size = (images.shape[2], images.shape[3])

    def look(name: str, inputs: tuple[Any, ...], output: Any) -> None:
        for layout in possible_layouts(inputs[0] if inputs else None, size):
            if isinstance(output, torch.Tensor) and _is_mean(layout.split(inputs[0]), output):
                found.append(PoolSource(model, name, layout, output.shape[1:]))
                return

    handles = [
        module.register_forward_hook(lambda _, inputs, output, name=name: look(name, inputs, output))
        for name, module in model.named_modules()
        if name
    ]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    return found[-1] if found else None


def _is_mean(tokens: torch.Tensor, output: torch.Tensor) -> bool:
    batch, h, w, channels = tokens.shape
    if h * w < 2 or output.numel() != batch * channels or output.shape[0] != batch:
        return False
    mean = tokens.mean((1, 2))
    return bool((output.reshape(batch, channels) - mean).abs().max() <= POOL_TOLERANCE * tokens.abs().max())
