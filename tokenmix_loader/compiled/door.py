"""Where compiled loops can take the place of tensors: the one place that loads numba."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.autograd import forward_ad


def _never(*_: object) -> bool:
    return False


# Torch has no public names for these.
_is_tracing: Callable[[], bool] = getattr(torch._C, "_is_tracing", _never)
_is_wrapped: Callable[[object], bool] = getattr(
    getattr(torch._C, "_functorch", None), "is_functorch_wrapped_tensor", _never
)


def compiled_for(*tensors: torch.Tensor) -> ModuleType | None:
    """`tokenmix_loader.compiled.loops`, where there is numba, and tensors are numbers on the CPU that nobody follows.

    The first call on a machine compiles, or reads what an earlier process has compiled.
    """
    # A graph would take what is computed outside of torch for a constant.
    if torch.compiler.is_compiling() or _is_tracing() or getattr(forward_ad, "_current_level", -1) >= 0:
        return None
    return _load() if all(map(_is_plain, tensors)) else None


def _is_plain(tensor: torch.Tensor) -> bool:
    return (
        type(tensor) is torch.Tensor
        and tensor.is_cpu
        and tensor.layout is torch.strided
        and not (tensor.requires_grad or tensor.is_neg() or _is_wrapped(tensor))
    )


def as_array(tensor: torch.Tensor, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """The one layout that is compiled for; a copy where it has another."""
    known = tensor.float() if tensor.dtype is torch.bfloat16 else tensor  # which NumPy does not know
    return np.ascontiguousarray(known.numpy(), dtype)


@cache
def _load() -> ModuleType | None:
    """Never an error: tensors do the same, and a cache that cannot be read or written should not end a training."""
    try:
        import numba

        if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
            return None  # for debugging: uncompiled, those loops are far slower than tensors
        from tokenmix_loader.compiled import loops

        loops.try_out()
    except ModuleNotFoundError as error:
        if error.name == "numba":
            return None
        _warn(error)
    except Exception as error:  # NumPy too new for numba, its cache torn, a full disk, ...
        _warn(error)
    else:
        return loops
    return None


def _warn(error: Exception) -> None:
    warnings.warn(
        f"tokenmix_loader: expected numba to compile, found {type(error).__name__}: {error}; targets will be the same "
        "without it, but cost more: set NUMBA_CACHE_DIR to a new folder with space, or install another numba, or none",
        RuntimeWarning,
        stacklevel=4,
    )
