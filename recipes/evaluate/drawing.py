"""What the figures share: heat over an image, and colours that colour-blind readers can tell apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito
Array = npt.NDArray[Any]


def shown(pixels: torch.Tensor, mean: Any, std: Any) -> Array:
    """A normalised image [3, H, W] as numbers 0 to 1 [H, W, 3]."""
    return (pixels.cpu() * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]).clamp(0, 1).permute(
        1, 2, 0
    ).numpy()  # fmt: skip


def picture(axes: Axes, image: Array, title: str = "") -> None:
    """An image without ticks."""
    axes.imshow(image)
    axes.set_axis_off()
    axes.set_title(title, fontsize=8)


def heat(axes: Axes, image: Array, values: torch.Tensor, title: str = "") -> None:
    """A map [h, w] over the image in grey; brightest where it is highest."""
    height, width = image.shape[:2]
    axes.imshow(image.mean(2), cmap="gray", vmin=0, vmax=1)
    axes.imshow(values.numpy(), cmap="inferno", alpha=0.65, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    axes.set_axis_off()
    axes.set_title(title, fontsize=9)


def grid_of(rows: int, columns: int, side_inch: float = 1.5) -> tuple[Figure, Any]:
    """A figure of pictures, and its axes [rows, columns]."""
    figure = Figure(figsize=(columns * side_inch, rows * side_inch + 0.3), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def save(figure: Figure, path: Path) -> None:
    """At a resolution for screens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
