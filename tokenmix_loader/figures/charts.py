"""Charts as SVG to stand inside a page: their text is text in the page's font, their colours are the page's."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tokenmix_loader.figures.pairs import HEAT

Floats = npt.NDArray[np.floating]
BINS = 20  # a whole number of percent each, of shares
# What stands for a colour of the page until the SVG is made: matplotlib knows no CSS variables.
INK, BAR, MARK = "#010101", "#020202", "#030303"
_VARIABLES = {INK: "var(--ink-soft)", BAR: "var(--bar)", MARK: "var(--mark)"}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
_COLOURS = LinearSegmentedColormap.from_list("heat", HEAT / 255)


def histogram(
    values: Floats, xlabel: str, ylabel: str, alt: str, *, mark: float | None = None, unit: bool = False
) -> Markup:
    """How often each value occurs; `mark`: a value with a line of its own, `unit`: values are shares from 0 to 1.

    `alt`: the same in words, for who cannot see it.
    """
    with rc_context(_STYLE | {"svg.hashsalt": xlabel}):  # the same chart gives the same bytes
        figure = Figure(figsize=(4.4, 2.5), layout="constrained")
        axes = figure.subplots()
        limits = (0.0, 1.0) if unit else _limits(values)
        axes.hist(np.clip(values, *limits), bins=BINS, range=limits, color=BAR, rwidth=0.88)
        if mark is not None:
            axes.axvline(mark, color=MARK, linestyle=(0, (4, 3)), linewidth=1.5)
        axes.set(xlabel=xlabel, ylabel=ylabel, xlim=limits)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        return _svg(figure, alt)


def heat_map(cells: Floats, label: str, alt: str) -> Markup:
    """Cells [h, w] in the colours of all maps, with the scale beside them."""
    with rc_context(_STYLE | {"svg.hashsalt": label}):
        figure = Figure(figsize=(4.4, 3.6), layout="constrained")
        axes = figure.subplots()
        drawn = axes.imshow(cells, cmap=_COLOURS, vmin=0, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        bar = figure.colorbar(drawn, ax=axes, label=label, shrink=0.9)
        bar.outline.set_visible(False)
        return _svg(figure, alt)


def _limits(values: Floats) -> tuple[float, float]:
    """From zero to the largest value, or to something where all are zero."""
    top = float(values.max(initial=0))
    return 0.0, top if top > 0 else 1.0


def _svg(figure: Figure, alt: str) -> Markup:
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<style[^>]*>.*?</style>|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[\w.]+_\d+"', "", text)  # names of parts, the same in every chart
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)  # whatever font the page has
    for placeholder, variable in _VARIABLES.items():
        text = text.replace(placeholder, variable)
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1))
