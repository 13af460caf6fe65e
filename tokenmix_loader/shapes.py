"""Checks of arguments at the package's boundary."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from tokenmix_loader.batch import Grid


def require_shape(where: str, tensor: torch.Tensor, shape: Sequence[int | None], remedy: str) -> None:
    """Raise TypeError unless it is a tensor, ValueError unless it has `shape`, in which None stands for any size."""
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{where}: expected a tensor, found {type(tensor).__name__}; {remedy}, as torch.Tensor")
    found = tuple(tensor.shape)
    fits = len(found) == len(shape) and all(b is None or a == b for a, b in zip(found, shape, strict=True))
    if not fits:
        expected = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{where}: expected shape [{expected}], found {list(found)}; {remedy}")


def require_choice(where: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(
            f"{where}: expected one of {', '.join(choices)}, found {value!r}; "
            f"{did_you_mean(value, choices) or 'choose one of them'}"
        )


def did_you_mean(value: object, choices: Iterable[str]) -> str:
    """A question that names the nearest choice, empty where none is near."""
    near = difflib.get_close_matches(str(value), choices, n=1)
    return f"did you mean {near[0]!r}?" if near else ""


def require_number(where: str, value: Any, expected: str, least: float, most: float = math.inf) -> None:
    """Raise TypeError unless `value` is a real number, ValueError unless it is finite and from `least` to `most`."""
    if not _is_a(numbers.Real, value):
        raise TypeError(f"{where}: expected {expected}, found {value!r}; pass a number")
    if not least <= value <= most or math.isinf(value):
        raise ValueError(f"{where}: expected {expected}, found {value}; change the setting")


def require_share(where: str, value: Any) -> None:
    """Raise TypeError unless `value` is a real number, ValueError unless it is a share."""
    require_number(where, value, "a share from 0 to 1", 0, 1)


def require_count(where: str, value: Any, least: int = 1) -> int:
    """`value` as an int; TypeError unless it is a whole number, Python's or NumPy's, ValueError below `least`."""
    if not _is_a(numbers.Integral, value):
        raise TypeError(f"{where}: expected a whole number of at least {least}, found {value!r}; pass an int")
    if value < least:
        raise ValueError(f"{where}: expected at least {least}, found {value}; change the setting")
    return int(value)


def _is_a(kind: type, value: Any) -> bool:
    """Whether it is such a number; to Python, True is one too."""
    return isinstance(value, kind) and not isinstance(value, bool)


def require_rng(where: str, rng: Any) -> None:
    """Raise TypeError unless `rng` is NumPy's Generator."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"{where}: expected a numpy.random.Generator, found {rng!r}; pass default_rng(seed)")


def require_grid(where: str, grid: Any) -> Grid:
    """The pair of positive whole numbers that `grid` is, as ints; TypeError for texts and other numbers, ValueError."""
    expected = f"{where}: expected (gh, gw) of at least 1, found {grid!r}; pass the student's token grid"
    if isinstance(grid, str) or (np.shape(grid) == (2,) and not all(_is_a(numbers.Integral, size) for size in grid)):
        raise TypeError(expected)
    if np.shape(grid) != (2,) or min(grid) < 1:
        raise ValueError(expected)
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
