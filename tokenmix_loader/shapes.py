"""Shape checks at the package's boundary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tokenmix_loader.batch import Grid


def require_shape(where: str, tensor: torch.Tensor, shape: Sequence[int | None], remedy: str) -> None:
    """Raise ValueError unless `tensor` has `shape`, in which None stands for any size."""
    found = tuple(tensor.shape)
    fits = len(found) == len(shape) and all(b is None or a == b for a, b in zip(found, shape, strict=True))
    if not fits:
        expected = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{where}: expected shape [{expected}], found {list(found)}; {remedy}")


def require_choice(where: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{where}: expected one of {', '.join(choices)}, found {value!r}; choose one of them")


def require_grid(where: str, grid: Any) -> Grid:
    """The pair of positive whole numbers that `grid` is, as ints; ValueError for anything else."""
    if np.shape(grid) != (2,) or any(int(size) != size or size < 1 for size in grid):
        raise ValueError(f"{where}: expected (gh, gw) of at least 1, found {grid}; pass the student's token grid")
    return int(grid[0]), int(grid[1])


def token_size(where: str, size: tuple[int, ...], grid: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of a token in px; ValueError where the grid does not divide the image."""
    (height, width), (gh, gw) = size, grid
    if height % gh or width % gw:
        raise ValueError(
            f"{where}: expected height and width in multiples of the {gh} x {gw} grid, found {height} x {width}; "
            "set the grid to the student's tokens"
        )
    return height // gh, width // gw
