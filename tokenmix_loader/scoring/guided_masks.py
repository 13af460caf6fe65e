"""Masks that follow the evidence, for comparison with random blocks (TokenMix, Table 3).

`attentive` is Attentive CutMix's choice (arXiv 2003.13048), `saliencymix` SaliencyMix's (arXiv 2006.01791), both by the
stored maps and with a fixed share of tokens; `peak` is an older name of `saliencymix`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from tokenmix_loader.batch import Grid
from tokenmix_loader.scoring.masks import Bools, count_kept
from tokenmix_loader.shapes import require_choice, require_rng, require_share

Ints = npt.NDArray[np.int64]

GUIDES = ("attentive", "saliencymix", "peak")


def guided_masks(
    rng: np.random.Generator, tokens: torch.Tensor, kind: str = "attentive", *, kept: float = 0.5
) -> torch.Tensor:
    """Masks, bool [B, gh, gw], with exactly floor(kept * gh * gw + 1/2) tokens kept each.

    `tokens` [B, gh, gw] is `align`'s result; partners are the batch in reverse order. `attentive`: image a keeps
    its tokens of most evidence. `saliencymix`: a rectangle of the grid's aspect is replaced around the partner's token
    of most evidence, inside the grid, its last or first row cut to the count. Ties are broken at random. Raises
    ValueError for an unknown kind or a share out of range.
    """
    require_rng("guided_masks: rng", rng)
    require_choice("guided_masks: kind", kind, GUIDES)
    require_share("guided_masks: kept", kept)
    batch, gh, gw = tokens.shape
    flat = tokens.flatten(1).numpy()
    count = count_kept(kept, (gh, gw))
    by_evidence = np.lexsort((rng.random(flat.shape), -flat), axis=1)
    if kind == "attentive":
        masks = np.zeros(flat.shape, np.bool_)
        np.put_along_axis(masks, by_evidence[:, :count], True, axis=1)
        return torch.from_numpy(masks.reshape(batch, gh, gw))
    return torch.from_numpy(~_around(by_evidence[::-1, 0], gh * gw - count, (gh, gw)))


def _around(peak: Ints, count: int, grid: Grid) -> Bools:
    """A rectangle of `count` tokens around each token `peak` (row-major number), filled row by row."""
    gh, gw = grid
    height = max(1, round(gh * np.sqrt(count / (gh * gw))))
    width = max(1, min(gw, -(-count // height)))
    rows = _centred(peak // gw, -(-count // width), gh)
    columns = _centred(peak % gw, width, gw)
    rectangle = (rows[:, :, None] & columns[:, None, :]).reshape(len(peak), gh * gw)
    rank = rectangle.cumsum(axis=1, dtype=np.int32)  # of each of its tokens in row order, from 1
    # The last row is cut to the count, or the first where that would leave out the peak.
    cut_first = rank[np.arange(len(peak)), peak, None] > count
    surplus = rank[:, -1:] - count
    return (rectangle & np.where(cut_first, rank > surplus, rank <= count)).reshape(-1, gh, gw)


def _centred(middle: Ints, length: int, size: int) -> Bools:
    start = np.clip(middle - length // 2, 0, size - length)[:, None]
    at = np.arange(size)
    return (at >= start) & (at < start + length)
