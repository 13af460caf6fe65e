"""Whether a model's tokens lie where the image changes them: a transposed or shuffled grid has the right mean too."""

from __future__ import annotations

import torch

from extract.teacher.token_sources import TokenSource

MIN_LOCALITY = 0.75
SURELY_TURNED = 0.95  # as high as this only by a real mirror: seven turns of a small grid are seven chances
# flips of (rows, columns) after an optional transposition: the ways in which a grid can be wrong as a whole
_TURNS = [(transposed, flips) for transposed in (False, True) for flips in ((), (1,), (2,), (1, 2))]


def probe_images(input_size: tuple[int, int], *, flat: bool) -> torch.Tensor:
    """Noise, and thrice the same with one quarter changed: upper left, upper right, lower left; [4, 3, H, W].

    Changed to other noise, which leaves the statistics of the whole image alone; or to one colour.
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


def order_fault(source: TokenSource, input_size: tuple[int, int], tokens: torch.Tensor) -> tuple[str, float]:
    """What is wrong with the order of the tokens [4, h, w, C] of `probe_images`, "" if nothing; and their locality.

    Locality says how often, over pairs of tokens, the left one follows the left quarter rather than the right one,
    compared with the right one, and the upper one the upper quarter; the lesser of both. 1 for tokens in reading
    order, 0.5 for shuffled ones, 0 where the grid is mirrored. A map [B, C, h, w] of a model that mixes everything,
    as some do before they are trained, passes without; a sequence does not.
    """
    pulls = _pulls(tokens)
    locality, other = _localities(pulls)
    if locality < MIN_LOCALITY:
        pulls = pulls + _pulls(source.tokens(probe_images(input_size, flat=True)))
        locality, other = _localities(pulls)
    if locality >= MIN_LOCALITY:
        return "", locality
    if other >= SURELY_TURNED:
        return f"a grid mirrored or transposed (locality {locality:.2f}, turned {other:.2f})", locality
    if source.layout.name == "NLC":
        return f"a sequence without any (locality {locality:.2f})", locality
    return "", locality


def _pulls(tokens: torch.Tensor) -> torch.Tensor:
    """How much more each token follows the left quarter than the right, the upper than the lower: [2, 2, h, w].

    By its whole movement, and by what is left of it when that of all tokens is taken out.
    """
    moved = (tokens[1:] - tokens[0]).double()
    kinds = torch.stack([moved, moved - moved.mean((1, 2), keepdim=True)])
    size = kinds.norm(dim=-1).clamp_min(1e-30).log()  # [2, 3, h, w]
    return torch.stack([size[:, 0] - size[:, 1], size[:, 0] - size[:, 2]], 1)


def _localities(pulls: torch.Tensor) -> tuple[float, float]:
    """Of the grid as it is, and of the best of its seven turns."""
    found = []
    for transposed, flips in _TURNS:
        turned = (pulls.transpose(2, 3) if transposed else pulls).flip([axis + 1 for axis in flips])
        found.append(max(min(_separation(across), _separation(down.T)) for across, down in turned))
    return found[0], max(found[1:])


def _separation(pull: torch.Tensor) -> float:
    """Area under the ROC curve of [h, w]: left half against right half, the middle column left out."""
    half = pull.shape[1] // 2
    if not half:
        return 1.0
    left, right = pull[:, :half].reshape(-1, 1), pull[:, -half:].reshape(-1)
    return float((left > right).double().mean())
