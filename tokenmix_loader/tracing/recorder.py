"""How transforms are watched: the same objects, in which a name or two mean something else.

A transform draws its parameters itself and runs as it is; what it asks to be done with the geometry is noted on the
way. So nothing of the drawing is imitated, and images and random streams are those of the unwatched transform.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from tokenmix_loader.tracing.affine import IDENTITY, WHOLE, Affine, Box, clip, compose


class _Notes(threading.local):
    """What the image of this thread has gone through: maps of each result's unit square to that of its input.

    With each, whether it can show more than the image before it had, filled up with a colour.
    """

    def __init__(self) -> None:
        self.moves: list[tuple[Affine, bool]] = []


_notes = _Notes()


def note(move: Affine, *, filling: bool = False) -> None:
    """Add one step of the geometry."""
    _notes.moves.append((move, filling))


def follow(steps: list[Callable[[Any], Any]], image: Any) -> tuple[Any, Affine, Box]:
    """The image after all steps, the map of its unit square to that of the input, and the box of it that is left."""
    moves: list[tuple[Affine, bool]] = []
    _notes.moves = moves
    for step in steps:
        image = step(image)
    to_image, bounds = IDENTITY, WHOLE
    for move, filling in moves:
        if filling:
            bounds = clip(bounds, to_image)
        to_image = move if to_image is IDENTITY else compose(to_image, move)
    return image, to_image, bounds


def spy_on(step: Any, **replaced: Any) -> Any:
    """`step` under a class in which the names `replaced` mean something else.

    The state is shared, so what is changed in `step` later on counts here too; the user's object, and other threads
    that use it, see nothing of the spy. Raises TypeError where the object itself, not its class, has such a name.
    """
    shadowed = [name for name, new in replaced.items() if name in vars(step) and not isinstance(new, property)]
    if shadowed:
        raise TypeError(f"trace: expected the class's own {shadowed[0]}, found another in {step!r}; make it a subclass")
    kind = type(step)
    spy: Any = object.__new__(type(kind.__name__, (kind,), replaced))
    object.__setattr__(spy, "__dict__", vars(step))
    return spy
