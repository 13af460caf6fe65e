"""95 % intervals of what was measured: of a mean over seeds, of a share of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student_t

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Interval:
    """A mean and half of its 95 % interval, by Student's t; None from a single value."""

    mean: float
    half: float | None

    def __str__(self) -> str:
        return f"{self.mean:.1f}" + (" (one seed)" if self.half is None else f" ± {self.half:.1f}")

    def signed(self) -> str:
        """As a difference."""
        return f"{'+' if self.mean >= 0 else '−'}{Interval(abs(self.mean), self.half)}"


def interval(values: Sequence[float]) -> Interval:
    """Of one value or more."""
    count = len(values)
    if count < 2:
        return Interval(fmean(values), None)
    return Interval(fmean(values), float(student_t.ppf(0.975, count - 1)) * stdev(values) / count**0.5)


def wilson(hits: Array, count: int) -> tuple[Array, Array]:
    """95 % interval of a share of `count` (Wilson's)."""
    z, share = 1.96, np.asarray(hits) / count
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return centre - half, centre + half
