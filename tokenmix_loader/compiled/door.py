"""When compiled loops take the place of tensors; decides whether numba is loaded at all."""

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


def _false(*_: object) -> bool:
    return False


# Torch has no public names for these.
_is_tracing: Callable[[], bool] = getattr(torch._C, "_is_tracing", _false)
_is_wrapped: Callable[[object], bool] = getattr(
    getattr(torch._C, "_functorch", None), "is_functorch_wrapped_tensor", _false
)


def compiled_for(*tensors: torch.Tensor) -> ModuleType | None:
    """The module `compiled.loops`, or None where tensor code has to be used.

    That is: without numba, for tensors that are not plain numbers on the CPU, and while torch records operations for
    gradients or a graph. The first call in a process compiles, or loads what an earlier process has compiled.
    """
    # A graph would record results from outside of torch as constants.
    if torch.compiler.is_compiling() or _is_tracing() or getattr(forward_ad, "_current_level", -1) >= 0:
        return None
    return _load() if all(map(_is_plain, tensors)) else None


def warm_up() -> None:
    """Compile now, where there is numba: before workers are forked, which then need not compile each for itself."""
    _load()


def optimal_loops() -> ModuleType | None:
    """The module `compiled.optimal_loops`, or None where `compiled_for` would find none either.

    Apart from the others, because few trainings need what takes longest to compile.
    """
    return _load_optimal() if _load() else None


def _is_plain(tensor: torch.Tensor) -> bool:
    return (
        type(tensor) is torch.Tensor
        and tensor.is_cpu
        and tensor.layout is torch.strided
        and not (tensor.requires_grad or tensor.is_neg() or _is_wrapped(tensor))
    )


def as_array(tensor: torch.Tensor, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """C-contiguous, as loops are compiled for; a copy where the tensor has another dtype or layout."""
    known = tensor.float() if tensor.dtype is torch.bfloat16 else tensor  # NumPy has no bfloat16
    return np.ascontiguousarray(known.numpy(), dtype)


@cache
def _load() -> ModuleType | None:
    """None, and a warning, instead of an error: tensor code gives the same results, so training can go on."""
    try:
        import numba

        if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
            return None  # for debugging; uncompiled loops are far slower than tensors
        from tokenmix_loader.compiled import loops

        loops.compile_all()
    except ModuleNotFoundError as error:
        if error.name == "numba":
            return None
        _warn(error)
    except Exception as error:  # NumPy too new for numba, a damaged cache, a full disk, ...
        _warn(error)
    else:
        return loops
    return None


@cache
def _load_optimal() -> ModuleType | None:
    """The same, once numba has compiled the other loops."""
    try:
        from tokenmix_loader.compiled import optimal_loops

        optimal_loops.compile_all()
    except Exception as error:
        _warn(error)
        return None
    return optimal_loops


def _warn(error: Exception) -> None:
    warnings.warn(
        f"tokenmix_loader: expected numba to compile, found {type(error).__name__}: {error}; targets are the same "
        "without it, but slower: set NUMBA_CACHE_DIR to an empty folder with space, install another version of numba, "
        "or uninstall it",
        RuntimeWarning,
        stacklevel=4,
    )
