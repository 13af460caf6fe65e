"""How transforms are recorded: the same objects, under classes in which a name or two mean something else.

A transform draws its parameters itself and runs as it is; what it does to the geometry is recorded on the way. So
nothing of the drawing is imitated, and images and random streams are those of the transform without recording.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import FunctionType
from typing import Any

from tokenmix_loader.tracing.affine import IDENTITY, WHOLE, Affine, Bounds, clip, compose

Step = Callable[[Any], Any]
Recorder = Callable[[Any], Step]  # makes the recording version of a step


class UntraceableTransform(TypeError):  # noqa: N818 -- says what the transform is
    """A transform has a step whose geometry cannot be recorded, or is not what was recorded."""


class _Record(threading.local):
    """The geometry of this thread's image so far: maps of each result's unit square to that of its input.

    With each, whether its result can show more than the image before it had, filled up with a colour. None while no
    traced transform runs.
    """

    def __init__(self) -> None:
        self.moves: list[tuple[Affine, bool]] | None = None


_record = _Record()


def record(move: Affine, *, filling: bool = False) -> None:
    """Add one step of the geometry, if a traced transform is running: the user may also call the step alone."""
    moves = _record.moves
    if moves is not None:
        moves.append((move, filling))


def run(steps: list[Step], image: Any) -> tuple[Any, Affine, Bounds]:
    """The image after all steps, the affine from its unit square to the input's, and what of the input it may show."""
    moves: list[tuple[Affine, bool]] = []
    around, _record.moves = _record.moves, moves
    try:
        for step in steps:
            image = step(image)
    finally:
        _record.moves = around
    to_image, bounds = IDENTITY, WHOLE
    for move, filling in moves:
        if filling:
            bounds = clip(bounds, to_image)
        to_image = move if to_image is IDENTITY else compose(to_image, move)
    return image, to_image, bounds


def with_replaced(step: Any, **replaced: Any) -> Step:
    """`step` under a subclass in which the names `replaced` mean something else.

    The state is shared, so what is changed in `step` later on counts here too; the user's object, and other threads
    that use it, stay as they are. Raises UntraceableTransform where the object itself, not its class, has such a name.
    """
    shadowed = [name for name, new in replaced.items() if name in vars(step) and not isinstance(new, property)]
    if shadowed:
        raise UntraceableTransform(
            f"trace: expected the class's own {shadowed[0]}, found another in {step!r}; make it a subclass"
        )
    kind = type(step)
    recording: Any = object.__new__(type(kind.__name__, (kind,), replaced))
    object.__setattr__(recording, "__dict__", vars(step))
    return recording  # type: ignore[no-any-return]


def with_value(step: Any, name: str, value: Any) -> Step:
    """`step` with another value of one attribute, while all others are shared."""
    return with_replaced(step, **{name: property(lambda _: value)})


def with_globals(function: Any, **replaced: Any) -> Callable[..., Any]:
    """The same code with other globals: to patch its module would reach other threads."""
    return FunctionType(
        function.__code__,
        function.__globals__ | replaced,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
