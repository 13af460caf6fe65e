"""Draws concepts.svg, the diagram of concepts.md: `python -m docs.diagram > docs/concepts.svg`.

Its scores are computed from the little maps that it shows, by Eq. 2 of the paper.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import exp

TOKENS, PX = 6, 18  # tokens per side of a picture, and their size
SIDE = TOKENS * PX
Cell = tuple[int, int]  # row, column
CELLS = [(row, column) for row in range(TOKENS) for column in range(TOKENS)]
MASK = {(row, column) for row, column in CELLS if row >= 2 and column < 4} | {(1, 2), (1, 3)}
OBJECT_A, OBJECT_B = (3.6, 3.8), (2.7, 3.6)  # centres, in tokens down and across
FLIPPED_A = (OBJECT_A[0], TOKENS - OBJECT_A[1])

STYLE = """
  text { font: 15px system-ui, sans-serif; fill: #1f2328 } .small { font-size: 13px } .bold { font-weight: 600 }
  .line { stroke: #57606a; stroke-width: 1.6; fill: none } .box { fill: #eef1f5; stroke: #57606a; stroke-width: 1.2 }
  .seen { fill: #c2410c } .hidden { fill: #8c959f; fill-opacity: .35 } .kept { fill: #1f2328 } .tip { fill: #57606a }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6e8eb } .line { stroke: #a0a7b0 } .box { fill: #2b303a; stroke: #a0a7b0 } .kept { fill: #e6e8eb }
    .tip { fill: #a0a7b0 } .seen { fill: #fb923c }
  }"""


def evidence(centre: tuple[float, float]) -> dict[Cell, float]:
    """A map that sees an object: the share of its evidence in every token."""
    raw = {(r, c): exp(-((r + 0.5 - centre[0]) ** 2 + (c + 0.5 - centre[1]) ** 2) / 1.6) for r, c in CELLS}
    return {cell: value / sum(raw.values()) for cell, value in raw.items()}


def score(maps: dict[Cell, float], visible: Iterable[Cell]) -> float:
    """Eq. 2: the share of the evidence that stays visible."""
    return sum(maps[cell] for cell in visible)


def square(cell: Cell, look: str) -> str:
    """One token."""
    return f'<rect x="{cell[1] * PX}" y="{cell[0] * PX}" width="{PX}" height="{PX}" {look}/>'


def picture_a(centre: tuple[float, float]) -> str:
    """A sun-coloured ball on a meadow."""
    y, x = (PX * part for part in centre)
    return (
        f'<rect width="{SIDE}" height="{SIDE}" fill="#bfdbfe"/>'
        f'<rect y="{SIDE / 2}" width="{SIDE}" height="{SIDE / 2}" fill="#86b36b"/>'
        f'<circle cx="{x:g}" cy="{y:g}" r="24" fill="#f59e0b"/>'
    )


def picture_b() -> str:
    """A violet kite over sand."""
    y, x = (PX * part for part in OBJECT_B)
    kite = " ".join(f"{x + dx:g},{y + dy:g}" for dx, dy in ((0, -28), (21, 0), (0, 28), (-21, 0)))
    return f'<rect width="{SIDE}" height="{SIDE}" fill="#e7d8b5"/><polygon points="{kite}" fill="#7c3aed"/>'


def heat(maps: dict[Cell, float]) -> str:
    """A map: the darker, the more evidence."""
    most = max(maps.values())
    cells = (square(cell, f'class="seen" fill-opacity="{value / most:.2f}"') for cell, value in maps.items())
    return "".join(cells) + f'<rect class="line" width="{SIDE}" height="{SIDE}"/>'


def mask() -> str:
    """Tokens kept from image a, and the others."""
    return "".join(square(cell, f'class="{"kept" if cell in MASK else "hidden"}"') for cell in CELLS)


def mixed() -> str:
    """Image a where the mask keeps it, image b elsewhere."""
    kept = "".join(square(cell, "") for cell in sorted(MASK))
    return f'<clipPath id="kept">{kept}</clipPath>{picture_b()}<g clip-path="url(#kept)">{picture_a(FLIPPED_A)}</g>'


def at(x: float, y: float, drawing: str, caption: str = "") -> str:
    """A drawing with its caption below."""
    below = f'<text class="small" x="{SIDE / 2}" y="{SIDE + 19}" text-anchor="middle">{caption}</text>' * bool(caption)
    return f'<g transform="translate({x},{y})">{drawing}{below}</g>'


def box(x: float, y: float, *lines: str) -> str:
    """Words in a frame as wide as a picture."""
    words = "".join(
        f'<text x="{SIDE / 2}" y="{SIDE / 2 + 5 + 20 * (n - (len(lines) - 1) / 2)}" text-anchor="middle">{line}</text>'
        for n, line in enumerate(lines)
    )
    return at(x, y, f'<rect class="box" width="{SIDE}" height="{SIDE}" rx="8"/>{words}')


def arrow(x: float, y: float, length: float = 36) -> str:
    """To the right."""
    tip = f"{x + length},{y} {x + length - 8},{y - 5} {x + length - 8},{y + 5}"
    return f'<path class="line" d="M{x} {y} h{length - 8}"/><polygon class="tip" points="{tip}"/>'


def title(y: float, bold: str, rest: str) -> str:
    """The heading of a row."""
    return f'<text x="24" y="{y}"><tspan class="bold">{bold}</tspan>{rest}</text>'


def targets(x: float, y: float, a: float, b: float) -> str:
    """Both labels' scores, beside those by area."""
    area = len(MASK) / len(CELLS)
    rows = [("", "TokenMix", "CutMix"), ("ball", f"{a:.2f}", f"{area:.2f}"), ("kite", f"{b:.2f}", f"{1 - area:.2f}")]
    looks = ("small", "bold", "small")
    return "".join(
        f'<text class="{looks[column]}" x="{x + (0, 50, 138)[column]}" y="{y + 26 * number}">{text}</text>'
        for number, row in enumerate(rows)
        for column, text in enumerate(row)
    )


def draw() -> str:
    """The diagram."""
    map_a, map_b = evidence(FLIPPED_A), evidence(OBJECT_B)
    a, b = score(map_a, MASK), score(map_b, set(CELLS) - MASK)
    top, low = 44, 236
    parts = [
        title(26, "Once, before training", ": tokenmix extract"),
        at(24, top, picture_a(OBJECT_A), "every training image"), arrow(140, top + 54),
        box(184, top, "teacher"), arrow(300, top + 54),
        at(344, top, heat(evidence(OBJECT_A)), "its map: where the"), arrow(460, top + 54),
        f'<text class="small" x="398" y="{top + SIDE + 36}" text-anchor="middle">teacher saw the label</text>',
        box(504, top, "store", "shards of", "HDF5"),
        title(218, "For every batch", ": MapDataset and TokenMix"),
        at(24, low, picture_a(FLIPPED_A), "image a, flipped"), at(150, low, heat(map_a), "its map, too"),
        at(24, low + 146, picture_b(), "its partner b"), at(150, low + 146, heat(map_b), "and its map"),
        arrow(266, low + 54), at(310, low, mask(), "mask: what stays of a"), arrow(426, low + 54),
        at(470, low, mixed(), "the mixed image"),
        targets(310, low + 172, a, b),
        f'<text class="small" x="310" y="{low + 254}">score: the evidence that stays visible</text>',
    ]  # fmt: skip
    described = "A teacher makes a map of every image once; for every batch the maps score what a mask leaves visible"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 620 520" role="img" aria-label="{described}">\n'
        f"<style>{STYLE}\n</style>\n" + "\n".join(parts) + "\n</svg>"
    )


if __name__ == "__main__":
    print(draw())
