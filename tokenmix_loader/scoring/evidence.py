"""What a teacher's map says for the presence of its label in each cell."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from tokenmix_loader.shapes import require_choice, require_shape

Maps = torch.Tensor | npt.NDArray[np.float16] | npt.NDArray[np.float32]


def _positive(maps: torch.Tensor) -> torch.Tensor:
    return maps.clamp(min=0)


def _contrast(maps: torch.Tensor) -> torch.Tensor:
    """Otsu's threshold splits each map into object and background; no fixed level or size.

    A fixed quantile as the background's level, such as the median, loses every object that covers more of the image.
    """
    # NumPy sorts short rows much faster than torch does on a CPU.
    ordered = torch.from_numpy(np.sort(maps.flatten(1).cpu().numpy())).to(maps.device)
    cells = ordered.shape[1]
    if cells < 2:
        return torch.zeros_like(maps)
    low = torch.arange(1, cells, device=maps.device)
    low_mean = ordered.cumsum(dim=1, dtype=torch.float64)[:, :-1] / low
    # Variance between the `low` lowest cells and the others, by the distance of their mean from that of all.
    between = (ordered.mean(dim=1, keepdim=True) - low_mean).square() * low / (cells - low)
    best = between.argmax(dim=1, keepdim=True)
    threshold, background = (values.gather(1, best).float()[:, :, None] for values in (ordered, low_mean))
    return torch.where(maps > threshold, maps - background, 0)


EVIDENCE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"logit": _positive, "contrast": _contrast}
AUTO = "auto"
# By the kind of the stored maps: the best that docs/evidence.md found. For others it is the paper's.
BEST_EVIDENCE = {"cam": "contrast"}


def evidence_for(map_kind: str, chosen: str = AUTO) -> str:
    """The kind of evidence that `auto` means for maps of this kind; any other choice is itself."""
    return BEST_EVIDENCE.get(map_kind, "logit") if chosen == AUTO else chosen


def evidence(maps: Maps, kind: str = "logit") -> torch.Tensor:
    """What a teacher's map says for the presence of its label, per cell: float32 [B, h, w] >= 0.

    `maps` [B, h, w], float16 or float32, numpy or torch. `logit` drops the negative part, as the paper does.
    `contrast` parts the cells in two by Otsu's threshold (the largest variance between the parts); the upper
    ones count by their distance from the lower ones' mean, the lower ones not at all. So it is the same for
    every a * map + b, up to the factor a > 0, and zero for a map without contrast. Raises ValueError for an
    unknown kind and for maps that are not finite.
    """
    require_choice("evidence: kind", kind, tuple(EVIDENCE))
    tensor = torch.as_tensor(maps).float()
    require_shape("evidence: maps", tensor, (None, None, None), "pass one map per sample, [B, h, w]")
    if not math.isfinite(tensor.sum()):  # one pass, where looking at each takes two
        raise ValueError("evidence: maps: expected finite values, found inf or nan; verify the store")
    return EVIDENCE[kind](tensor)


def normalise(maps: torch.Tensor) -> torch.Tensor:
    """Each map of [B, h, w] >= 0 divided by its sum; a map without any mass stays zero."""
    total = maps.sum(dim=(1, 2), keepdim=True)
    return torch.where(total > 0, maps / total, 0)
