"""Whether a model's tokens stand where the image changes them: a transposed or shuffled grid has the right mean too."""

from __future__ import annotations

from typing import NamedTuple

import torch

from extract.teacher.tokens.token_sources import TokenSource

MIN_LOCALITY = 0.75
# A mirrored grid is refused only above this: of seven mirrorings of a small grid one may well reach less by chance.
MIN_MIRRORED_LOCALITY = 0.95
# The ways in which a grid can be wrong as a whole: transposed or not, then mirrored along these axes of [2, 2, h, w].
_MIRRORINGS = [(transposed, axes) for transposed in (False, True) for axes in ((), (2,), (3,), (2, 3))]


class ReadingOrder(NamedTuple):
    """`problem`: what is wrong with the order of the tokens, "" if nothing. `locality`: see check_reading_order."""

    problem: str
    locality: float


def probe_images(input_size: tuple[int, int], *, flat: bool) -> torch.Tensor:
    """Noise, and three copies with one quarter changed: upper left, upper right, lower left; [4, 3, H, W].

    `flat`: changed to one colour; else to other noise, which leaves the statistics of the whole image alone.
    """
    height, width = input_size
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(3, height, width, generator=generator)
    other = torch.full_like(noise, 2.0) if flat else torch.randn(3, height, width, generator=generator)
    images: torch.Tensor = noise.repeat(4, 1, 1, 1)
    top, left = slice(height // 2), slice(width // 2)
    bottom, right = slice(height // 2, None), slice(width // 2, None)
    for image, (rows, columns) in zip(images[1:], ((top, left), (top, right), (bottom, left)), strict=True):
        image[:, rows, columns] = other[:, rows, columns]
    return images


def check_reading_order(source: TokenSource, input_size: tuple[int, int], tokens: torch.Tensor) -> ReadingOrder:
    """Check the tokens [4, h, w, C] of `probe_images(input_size, flat=False)`.

    Tokens of the left half should change most where the left quarter of the image was changed, those of the right half
    where the right one was; upper and lower alike. Locality is the share of pairs, one token of each half, that stand
    in this order, in the worse of the two directions: 1 for tokens in reading order, 0.5 for shuffled ones, 0 for a
    mirrored grid. Where it is low, images with a quarter of one colour are tried as well.

    A map [B, C, h, w] of low locality passes, unless a mirroring explains it: some models mix everything before
    they are trained. A sequence of low locality does not, for nothing else says in which order its tokens stand.
    """
    preference = _preference(tokens)
    locality, mirrored = _localities(preference)
    if locality < MIN_LOCALITY:
        preference = preference + _preference(source.tokens(probe_images(input_size, flat=True)))
        locality, mirrored = _localities(preference)
    problem = ""
    if locality < MIN_LOCALITY and mirrored >= MIN_MIRRORED_LOCALITY:
        problem = f"a grid mirrored or transposed (locality {locality:.2f}, {mirrored:.2f} if turned)"
    elif locality < MIN_LOCALITY and source.layout.name == "NLC":
        problem = f"a sequence without any (locality {locality:.2f})"
    return ReadingOrder(problem, locality)


def _preference(tokens: torch.Tensor) -> torch.Tensor:
    """How much more a token changes with one quarter of the image than with another, a ratio's log: [2, 2, h, w].

    First axis: the change as it is, and without what all tokens have in common. Second axis: upper left against upper
    right, and upper left against lower left.
    """
    change = (tokens[1:] - tokens[0]).double()
    both = torch.stack([change, change - change.mean((1, 2), keepdim=True)])
    size = both.norm(dim=-1).clamp_min(1e-30).log()  # [2, 3, h, w]
    return torch.stack([size[:, 0] - size[:, 1], size[:, 0] - size[:, 2]], 1)


def _localities(preference: torch.Tensor) -> tuple[float, float]:
    """Of the grid as it is, and of the best of its seven mirrorings."""
    found = []
    for transposed, axes in _MIRRORINGS:
        turned = (preference.transpose(2, 3) if transposed else preference).flip(axes)
        found.append(max(min(_separation(across), _separation(down.T)) for across, down in turned))
    return found[0], max(found[1:])


def _separation(preference: torch.Tensor) -> float:
    """Area under the ROC curve of [h, w]: left half against right half, the middle column left out."""
    half = preference.shape[1] // 2
    if not half:
        return 1.0
    left, right = preference[:, :half].reshape(-1, 1), preference[:, -half:].reshape(-1)
    return float((left > right).double().mean())
