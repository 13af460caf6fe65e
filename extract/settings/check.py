"""The types and ranges of settings that are given from Python; the command line checks its own."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import fields
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

# Least and largest value of the fields that have some, whichever settings they are of.
BOUNDS: Mapping[str, tuple[float, float]] = {
    "num_classes": (0, math.inf),
    "input_size": (1, math.inf),
    "crop_pct": (0, 1),
    "top_k": (1, math.inf),
    "cam_grid": (2, math.inf),
    "rivals": (0, math.inf),
    "shard_rows": (1, math.inf),
    "batch_size": (1, math.inf),
    "decoding_processes": (0, math.inf),
    "max_errors": (0, math.inf),
    "min_top1": (0, 1),
    "tasks": (1, math.inf),
    "parallel": (1, math.inf),
    "cpus_per_task": (1, math.inf),
    "warn_s": (1, math.inf),
}


# What the fields that name one of several things may be. Others are refused where they are looked up.
CHOICES: Mapping[str, tuple[str, ...]] = {
    "amp": ("none", "bf16", "fp16"),
    "crop_mode": ("center", "squash", "border"),
    "view": ("center", "squash"),
    "class_weights": ("balanced", "none"),
}
POSITIVE = ("crop_pct",)  # which the least value itself is not


class Checked:
    """Base of frozen dataclasses whose values are checked when they are made.

    What means the same is taken as what the field is for: a text for a path, a list for a tuple, NumPy's numbers.
    """

    def __post_init__(self) -> None:
        """Raises TypeError for a value of another type, ValueError for one out of range; both name the field."""
        hints = get_type_hints(type(self))
        for field in fields(self):  # type: ignore[arg-type]  # the subclasses are dataclasses
            name, value = f"{type(self).__name__}.{field.name}", getattr(self, field.name)
            try:
                taken = _taken(hints[field.name], value)
            except TypeError:
                expected = str(field.type).replace("Mapping[str, Any]", "dict")
                raise TypeError(f"{name}: expected {expected}, found {value!r}, a {type(value).__name__}") from None
            least, most = BOUNDS.get(field.name, (-math.inf, math.inf))
            for number in taken if isinstance(taken, tuple) else (taken,):
                if isinstance(number, int | float) and not least <= number <= most:
                    limits = f"at least {least:g}" if math.isinf(most) else f"from {least:g} to {most:g}"
                    raise ValueError(f"{name}: expected {limits}, found {value!r}")
            if taken == 0 and field.name in POSITIVE:
                raise ValueError(f"{name}: expected more than 0, found {value!r}")
            choices = CHOICES.get(field.name)
            if choices and taken is not None and taken not in choices:
                raise ValueError(f"{name}: expected one of {', '.join(choices)}, found {value!r}")
            object.__setattr__(self, field.name, taken)


def _taken(hint: Any, value: Any) -> Any:
    """The value as the hint has it; TypeError where it is something else."""
    if get_origin(hint) in (Union, UnionType):
        inner = [choice for choice in get_args(hint) if choice is not type(None)]
        return None if value is None else _taken(inner[0], value)
    if get_origin(hint) is tuple:
        return _tuple_of(get_args(hint), value)
    if isinstance(value, bool) and hint is not bool:  # Python's bool is an int
        raise TypeError
    if hint is int and isinstance(value, Integral):
        return int(value)
    if hint is float and isinstance(value, Real):
        return float(value)
    if hint is Path and isinstance(value, str | os.PathLike):
        return Path(value)
    if isinstance(value, get_origin(hint) or hint):
        return value
    raise TypeError


def _tuple_of(hints: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError
    if hints[1:] == (...,):
        hints = (hints[0],) * len(value)
    if len(hints) != len(value):
        raise TypeError
    return tuple(_taken(hint, part) for hint, part in zip(hints, value, strict=True))
