"""Proof that a traced transform's pixels come from where its record says, on test images.

A record is read off what steps of other libraries call and return. Another version of a library, or a step that was
patched, may do something else, and would be taken for a step that moved nothing. So each transform is run at wrapping,
with several states of its random generators, and a single draw in which pixels show something else is a fault.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from tokenmix_loader.tracing.affine import WHOLE
from tokenmix_loader.tracing.pattern import Colours, Match, Pattern, Place, match
from tokenmix_loader.tracing.recorder import UntraceableTransform
from tokenmix_loader.tracing.shades import affine_of, draw_shades

Sizes = tuple[tuple[int, int], ...]

DRAWS = 20  # a step that is applied to one image in five is missed once in a hundred times
SIZES: Sizes = ((300, 220), (256, 256), (220, 320))
LARGER = 4  # times larger are the images for transforms that refuse those above, as their crops are larger
# Bright and dark ones: what solarizing or posterizing makes equal in one is not in another. The third colour, of a few
# spots, is for equalizing, which makes black and white of any two.
COLOURS: tuple[Colours, ...] = (
    ((20, 90, 220), (235, 190, 50), (235, 190, 50)),
    ((30, 60, 105), (110, 20, 45), (110, 20, 45)),
    ((40, 60, 90), (120, 150, 170), (255, 255, 255)),
    ((230, 150, 160), (140, 240, 245), (0, 0, 0)),
)
# Heights of the correlation, see pattern.Match: right ones are from 7 to 20, wrong ones up to 5 by chance. In a result
# of few pixels none is higher than the square root of their number, of which this share is enough.
RIGHT, RIGHT_OF_GREATEST = 6.5, 0.55
VISIBLE = 0.15  # a result proves nothing where less than this share of it shows the image
FAILED = 10  # draws that may raise an error, as some policies do at times
DOUBTFUL = 3  # draws that may show no place at all: some policies change colours beyond recognition
OFF_PX, OFF_SHARE = 1.5, 0.02  # how far off, in px or in the result's longer side: blurs in motion reach 1 %
RAMP = 0.006  # of the image's side: the resolution of a ramp of 255 shades


class Traceable(Protocol):
    """What is tested: a traced transform, which may be run and whose own generators may be set."""

    def placed(self, image: Any) -> tuple[Any, Place]:
        """The transformed image, and affine and bounds."""

    def reseed(self, seed: int) -> None:
        """Another state of generators that are the transform's own."""


class Fault(NamedTuple):
    """A draw in which pixels are not where they were recorded to be.

    `recorded` and `shown` are affines as six numbers; `shown` is None where pixels show no affine map of the image.
    """

    draw: int
    width: int
    height: int
    recorded: list[float]
    shown: list[float] | None

    @property
    def is_proven(self) -> bool:
        """Whether pixels show another affine, and not merely none."""
        return self.shown is not None and not self.is_refuted

    @property
    def is_refuted(self) -> bool:
        """Whether pixels do show what is recorded, so that there is no fault."""
        if self.shown is None:
            return False
        recorded, shown = (np.reshape(six, (2, 3)) for six in (self.recorded, self.shown))
        corners = np.array([[0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]]).T
        extent = np.abs(recorded[:, :2]).sum(axis=1).max()
        return bool(np.abs((recorded - shown) @ corners).max() <= OFF_SHARE * extent + RAMP)


def find_fault(traced: Traceable) -> Fault | None:
    """A draw in which pixels are not where they are recorded to be; None if there is none.

    One in which they show another place is enough; of those that show none, a few pass. Generators of Python, NumPy
    and PyTorch are left as they were; those that are the transform's own are not, so give it a copy. Raises
    UntraceableTransform where the transform does, or where it fails on every image.
    """
    doubtful: list[Fault] = []
    failed: list[Exception] = []
    with _generators_kept(), _one_thread():
        scale = _scale_of_images(traced)
        for number in range(DRAWS):
            try:
                fault = _Draw(traced, number, scale).fault()
            except UntraceableTransform:
                raise
            except Exception as error:
                failed.append(error)
                continue
            if fault is not None and fault.is_proven:
                return fault
            if fault is not None:
                doubtful.append(fault)
    if len(failed) > FAILED:
        raise _failing(scale, failed[0])
    return doubtful[0] if len(doubtful) > DOUBTFUL else None


@contextmanager
def _generators_kept() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 -- transforms draw from the global ones
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def _one_thread() -> Iterator[None]:
    """Test images are small, so that on a busy machine threads would mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _scale_of_images(traced: Traceable) -> int:
    """1, or a larger one where crops are larger than the test images."""
    for scale in (1, LARGER):
        try:
            _Draw(traced, 0, scale).look(0)
        except UntraceableTransform:
            raise
        except Exception as error:
            failure = error
        else:
            return scale
    raise _failing(LARGER, failure)


def _failing(scale: int, error: Exception) -> UntraceableTransform:
    width, height = SIZES[0]
    refusal = UntraceableTransform(
        f"trace: expected a transform of RGB images, found {type(error).__name__} for one of "
        f"about {width * scale}x{height * scale} px: {error}"
    )
    refusal.__cause__ = error
    return refusal


class _Draw:
    """One state of the random generators, from which the transform may be run on any image."""

    def __init__(self, traced: Traceable, number: int, scale: int) -> None:
        self._traced, self._number = traced, number
        width, height = SIZES[number % len(SIZES)]
        self._size = width * scale, height * scale

    def fault(self) -> Fault | None:
        """None if results show what is recorded, or too little of the image to decide."""
        looks = [found for found in self._looks() if found is not None]
        if not looks or _is_right(looks[-1]):
            return None
        fault = self._measured()
        is_hidden = not fault.is_proven and looks[-1].inside < VISIBLE * looks[-1].cells
        return None if fault.is_refuted or is_hidden else fault

    def _looks(self) -> Iterator[Match | None]:
        """In one set of colours after another, until what is recorded is seen."""
        for attempt in range(len(COLOURS)):
            found = self.look(attempt)
            yield found
            if found is not None and _is_right(found):
                return

    def look(self, attempt: int, shown: list[float] | None = None) -> Match | None:
        """How clearly the result shows the pattern, in other colours at each attempt; None where it is blank.

        It is looked for where it is recorded to be, or where it is `shown` to be, an affine as six numbers.
        """
        pattern = Pattern(*self._size, attempt)
        image, place = self._run(pattern.image(COLOURS[(self._number + attempt) % len(COLOURS)]))
        return match(image, place if shown is None else np.array([*shown, *WHOLE]), pattern)

    def _measured(self) -> Fault:
        """What is recorded in this draw, and what pixels show; of that only what the pattern confirms."""
        results = [self._run(image) for image in draw_shades(*self._size)]
        shown = affine_of([image for image, _ in results])
        fault = Fault(self._number, *self._size, results[0][1][:6].tolist(), shown)
        if fault.is_refuted:
            return fault
        looks = (self.look(attempt, shown) for attempt in range(len(COLOURS)) if fault.is_proven)
        is_confirmed = any(found is not None and _is_right(found) for found in looks)
        return fault if is_confirmed else fault._replace(shown=None)

    def _run(self, image: Any) -> tuple[Any, Place]:
        random.seed(self._number)
        np.random.seed(self._number)  # noqa: NPY002
        torch.default_generator.manual_seed(self._number)
        self._traced.reseed(self._number)
        return self._traced.placed(image)


def _is_right(found: Match) -> bool:
    enough = min(RIGHT, RIGHT_OF_GREATEST * found.cells**0.5)
    return found.here >= enough and found.off_px <= max(OFF_PX, OFF_SHARE * found.side_px)
