"""How loops are compiled. Imported by the loops, which `door` imports once it has found numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def njit_cached(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: compile at the first call, or load from numba's cache on disk, where numba finds a writable folder.

    Sums may be taken in any order, so that several numbers are added at a time.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": {"reassoc", "nsz", "contract"}}
    try:
        jitted: Callable[..., Any] = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no writable folder
        jitted = numba.njit(**options)(function)
    return jitted
