"""Where a model's tokens look: the rectangle of the network's input over which their centres lie evenly.

Tokens need not tile the input: padding, dynamic padding and strides shift their centres, by half a token in a
ResNet-18. A token's centre is that of the squared gradients of random projections of it, over the input's pixels,
measured on the weights in use. Along one axis centres are taken to be `start + pitch (i + 1/2)`, in pixels, with

    pitch    whole pixels by which the input can be moved so that the tokens move on by one place; else side / tokens
    start    from the profile of gradients about a token: the mean of several tokens' profiles, `pitch` apart

The mean profile is over what lies in the image at each distance, and its centre that of a window which is symmetric
about it, so the image's border and what all tokens have in common do not draw the centre to the middle of the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

Tokens = Callable[[torch.Tensor], torch.Tensor]  # normalised images [B, 3, H, W] -> tokens [B, h, w, C]
Profiles = npt.NDArray[np.float64]  # [..., lines of tokens, pixels]: squared gradients along one axis

WHOLE = (0.0, 0.0, 1.0, 1.0)
FITS = 0.1  # of a token: how far centres may lie from where the rectangle has them
EVEN = 0.05  # of a token: a rectangle that is no further from even tiles is taken as theirs
PARTS = 64  # of a token, to which a rectangle's sides are rounded, so that every machine finds the same
LINES = 8  # rows, and columns, of tokens whose gradients are taken
PRECISE = 0.02  # of a token: standard error of a shift for which one image is enough
REACH = 3.0  # tokens to either side of a centre that count
COMPACT = 0.75  # tokens: standard deviation of a profile up to which the centre of a single row can be judged
LIKE, SAME = 0.7, 0.9  # correlation of tokens with those of the moved input: the least, and enough for an even pitch
MOST_STEPS = 100  # of a window on its way to its centre
MIN_ROWS = 5  # of a grid whose pitch can be found


class TokenView(NamedTuple):
    """`rectangle`: (x0, y0, x1, y1) in the unit square of the network's input; `problem`: why it is a guess, or ""."""

    rectangle: tuple[float, float, float, float]
    problem: str


class _Fit(NamedTuple):
    """Of the tokens' centres along one axis, in tokens of even tiles: what n of them cover, and how sure that is."""

    start: float
    end: float
    error: float  # standard error of start and end
    misfit: float  # the furthest row's centre from where start and end have it; 0 where that cannot be told


def measure_token_view(tokens: Tokens, grid: tuple[int, int], input_size: tuple[int, int]) -> TokenView:
    """The rectangle that the model's tokens, a grid (h, w), cover. The model is on the CPU, in evaluation mode.

    The whole input, and a problem, where no rectangle fits the centres to a tenth of a token. Costs, in passes of one
    image, one forward and at most 16 backward ones (10 on a grid of 7 x 7), which need no gradients of weights; four
    times that where gradients are noisy; and two forward for the pitch, or one for every pixel of two thirds of a token
    where the pitch is not that of even tiles.
    """
    try:
        down, across = _fit_axes(tokens, grid, input_size)
    except RuntimeError as error:
        return TokenView(WHOLE, f"their gradients cannot be computed: {str(error).splitlines()[0]}")
    for where, fit in (("down", down), ("across", across)):
        if not fit.error <= FITS:
            return TokenView(WHOLE, f"their centres {where} are known to {fit.error:.2f} of a token only")
        if fit.misfit > FITS:
            return TokenView(WHOLE, f"their centres {where} are uneven by {fit.misfit:.2f} of a token")
    (y0, y1), (x0, x1) = (_rounded(fit, n) for fit, n in zip((down, across), grid, strict=True))
    return TokenView((x0, y0, x1, y1), "")


def view_at_size(
    view: TokenView, grid: tuple[int, int], size: tuple[int, int], other_grid: tuple[int, int], other: tuple[int, int]
) -> tuple[float, float, float, float]:
    """The rectangle of the same network's tokens on an input of `other` (height, width) instead of `size`.

    Strides and padding are so many pixels, whatever the input's size; so are the first centre and the pitch.
    """
    if size == other or view.problem:
        return view.rectangle
    x0, y0, x1, y1 = view.rectangle
    (left, right), (top, bottom) = (
        (first * side / new, (first + (last - first) / n * new_n) * side / new)
        for first, last, n, side, new_n, new in (
            (x0, x1, grid[1], size[1], other_grid[1], other[1]),
            (y0, y1, grid[0], size[0], other_grid[0], other[0]),
        )
    )
    return left, top, right, bottom


def mirrored_mean(rectangle: Sequence[float]) -> tuple[float, float, float, float]:
    """The rectangle of the mean of a map and the mirror image's map, mirrored back."""
    x0, y0, x1, y1 = rectangle
    inset = (x0 + 1 - x1) / 2
    return inset, y0, 1 - inset, y1


def _rounded(fit: _Fit, n: int) -> tuple[float, float]:
    """The side of the rectangle, in shares of the input's side."""
    if max(abs(fit.start), abs(fit.end - n)) <= max(EVEN, 2 * fit.error):
        return 0.0, 1.0
    return round(fit.start * PARTS) / (PARTS * n), round(fit.end * PARTS) / (PARTS * n)


def _fit_axes(tokens: Tokens, grid: tuple[int, int], input_size: tuple[int, int]) -> list[_Fit]:
    """Down and across; by one image, or by all where that leaves doubt."""
    pitches = _pitches(tokens, grid, input_size)
    images = _noise(input_size)
    lines = [_lines(n) for n in grid]
    found: list[list[Profiles]] = []
    fits: list[_Fit] = []
    for used in (images[:1], images[1:]):
        found += [_profiles(tokens, image[None], lines) for image in used]
        fits = [
            _fit(np.stack([of_image[axis] for of_image in found]), lines[axis], grid[axis], pitches[axis])
            for axis in (0, 1)
        ]
        if max(fit.error for fit in fits) <= PRECISE:
            break
    return fits


def _lines(n: int) -> list[int]:
    """Rows of a grid of n, not those at the border if there are others."""
    margin = int(n > 3)
    return sorted({round(row) for row in np.linspace(margin, n - 1 - margin, LINES).tolist()})


def _noise(input_size: tuple[int, int]) -> torch.Tensor:
    """Noise with the spectrum of photographs and its mirror images, [4, 3, H, W].

    Trained networks answer to white noise at few places; what leans to one side in an image leans to the other in its
    mirror image.
    """
    height, width = input_size
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None])
    white = torch.randn(3, height, width, generator=torch.Generator().manual_seed(0))
    spectrum = torch.fft.rfft2(white) / frequency.clamp_min(1 / max(input_size))
    image = torch.fft.irfft2(spectrum, s=input_size)
    image = (image - image.mean((1, 2), keepdim=True)) / image.std((1, 2), keepdim=True)
    return torch.stack([image, image.flip(2), image.flip(1), image.flip((1, 2))])


def _profiles(tokens: Tokens, image: torch.Tensor, lines: Sequence[Sequence[int]]) -> list[Profiles]:
    """Of rows of tokens down the image [rows, H], and of columns across it [columns, W].

    The tokens of a line are added with random weights, so what they share adds no cross terms on average.
    """
    image = image.clone().requires_grad_()
    with torch.enable_grad():
        found = tokens(image * 1)  # some models write to their input
    generator = torch.Generator().manual_seed(1)
    profiles = []
    for axis, chosen in enumerate(lines):
        energies = []
        for line in chosen:
            weights = torch.zeros_like(found, requires_grad=False)
            part = weights.select(1 + axis, line)
            part.copy_(torch.randn(part.shape, generator=generator))
            slope = torch.autograd.grad(found, image, weights, retain_graph=True)[0]
            energies.append(slope.double().square().sum((0, 1, 3 - axis)))
        profile = torch.stack(energies)
        profiles.append((profile / profile.sum()).numpy())
    return profiles


@torch.no_grad()
def _pitches(tokens: Tokens, grid: tuple[int, int], input_size: tuple[int, int]) -> tuple[float, float]:
    """Pixels from one token to the next, down and across: see the module's first lines."""
    even = (input_size[0] / grid[0], input_size[1] / grid[1])
    if min(grid) < MIN_ROWS:
        return even
    image = _noise(input_size)[:1]
    before = tokens(image)[0, 1:-2, 1:-2]

    def likeness(step: tuple[int, int]) -> float:
        return _correlation(before, tokens(image.roll(step, (2, 3)))[0, 2:-1, 2:-1])

    tile = round(even[0]), round(even[1])
    if even[0].is_integer() and even[1].is_integer() and likeness(tile) >= SAME:
        return even
    steps = range(math.ceil(max(even) * 0.75), math.floor(min(even) * 1.34) + 1)
    best, step = max(((likeness((step, step)), step) for step in steps), default=(0.0, 0))
    return (float(step), float(step)) if best >= LIKE else even


def _correlation(one: torch.Tensor, two: torch.Tensor) -> float:
    one, two = (part.double() - part.double().mean((0, 1)) for part in (one, two))
    return float((one * two).sum() / (one.norm() * two.norm()).clamp_min(1e-30))


def _fit(profiles: Profiles, lines: Sequence[int], n: int, pitch: float) -> _Fit:
    """Profiles [images, lines, side] of these of n lines of tokens."""
    side = profiles.shape[2]
    middles = side / 2 + pitch * (np.array(lines) + 0.5 - n / 2)
    mean = profiles.mean(0)
    shift, spread = _centre(mean, middles, pitch)
    single = [_centre(mean[[row]], middles[[row]], pitch)[0] - shift for row in range(len(lines))]
    several = single if len(profiles) == 1 else [_centre(image, middles, pitch)[0] for image in profiles]
    start, tile = side / 2 - n * pitch / 2 + shift, side / n
    return _Fit(
        start=start / tile,
        end=(start + n * pitch) / tile,
        error=float(np.std(several, ddof=1)) / math.sqrt(len(several)) / tile,
        misfit=float(np.abs(single).max()) / tile if spread < COMPACT * pitch else 0.0,
    )


def _centre(profiles: Profiles, middles: npt.NDArray[np.float64], pitch: float) -> tuple[float, float]:
    """Centre and standard deviation of the mean of profiles [lines, side], each about its own middle."""
    side, most = profiles.shape[1], math.ceil((REACH + 1) * pitch)
    offsets = np.arange(-most, most + 1.0)
    places = middles[:, None] + offsets - 0.5
    inside = (places >= 0) & (places <= side - 1)
    values = [np.interp(at, np.arange(side), profile) for at, profile in zip(places, profiles, strict=True)]
    mean = (np.stack(values) * inside).sum(0) / inside.sum(0).clip(1)
    first, last = offsets[inside.any(0)][[0, -1]]
    centre, spread = 0.0, 0.0
    for _ in range(MOST_STEPS):
        reach = min(REACH * pitch, centre - first, last - centre)
        weight = mean * np.clip(reach + 0.5 - np.abs(offsets - centre), 0, 1)
        weight /= max(weight.sum(), 1e-300)
        step = float((weight * (offsets - centre)).sum())
        spread = math.sqrt(float((weight * (offsets - centre) ** 2).sum()))
        centre += step
        if abs(step) < 1e-5 * pitch:
            break
    return centre, spread
