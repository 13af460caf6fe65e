"""How loops are compiled: imported only where numba is known to be there, see `door`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled at its first call, or taken from numba's cache on the disk if there is a folder that it can write.

    Sums may be taken in any order, several numbers at a time.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": {"reassoc", "nsz", "contract"}}
    try:
        jitted: Callable[..., Any] = numba.njit(cache=True, **options)(function)
    except RuntimeError:
        jitted = numba.njit(**options)(function)
    return jitted
