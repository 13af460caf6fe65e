"""One picture that shows a person what the targets are made of: crops, maps, mask, mixed image, scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tokenmix_loader.batch import NO_MAP
from tokenmix_loader.figures.pairs import COLOR_A, COLOR_B, CROP_PX, PAPER, Score, mix_pairs
from tokenmix_loader.join.fingerprints import require_same_files
from tokenmix_loader.join.original_images import Images, require_readable
from tokenmix_loader.join.rows import find_rows
from tokenmix_loader.store_access import MapStore

GAP, HEADER, MARGIN = 12, 44, 16
TITLES = ("image a", "its map", "image b", "its map", "mask: a orange, b blue", "mixed image", "scores")
INK, FAINT = (24, 26, 32), (226, 229, 235)


def draw_pairs(
    images: Images,
    store: str | Path,
    pairs: int = 4,
    seed: int = 0,
    evidence: str = "auto",
    mask_kind: str = "block",
    *,
    same_files: bool = True,
) -> Image.Image:
    """A picture with one line per pair of images of different labels, in training crops.

    `same_files`: as of MapDataset. Raises StoreMismatch where the images are not those that the maps were made from,
    StoreError where the store cannot be read.
    """
    maps = MapStore(store)
    rows = find_rows(images.keys, images.labels, maps)
    if same_files:
        require_same_files(images.keys, rows, images.open, maps)
    usable = require_readable(maps, np.flatnonzero(rows != NO_MAP))
    found = mix_pairs(images, maps, rows, usable, pairs, seed, evidence, mask_kind)
    return _sheet([[*pair.panels, _scores(pair.scores)] for pair in found])


def _sheet(lines: list[list[Image.Image]]) -> Image.Image:
    width = 2 * MARGIN + len(TITLES) * CROP_PX + (len(TITLES) - 1) * GAP
    height = 2 * MARGIN + HEADER + len(lines) * CROP_PX + (len(lines) - 1) * GAP
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(TITLES):
        pen.text((_x(column) + CROP_PX / 2, MARGIN + HEADER / 2 - 4), title, INK, _font(20), anchor="mm")
    for line, panels in enumerate(lines):
        for column, panel in enumerate(panels):
            sheet.paste(panel, (_x(column), MARGIN + HEADER + line * (CROP_PX + GAP)))
    return sheet


def _x(column: int) -> int:
    return MARGIN + column * (CROP_PX + GAP)


def _scores(scores: Sequence[Score]) -> Image.Image:
    """Bars of both labels' area and TokenMix scores."""
    panel = Image.new("RGB", (CROP_PX, CROP_PX), PAPER)
    pen = ImageDraw.Draw(panel)
    for block, (score, colour) in enumerate(zip(scores, (COLOR_A, COLOR_B), strict=True)):
        top = 4 + block * 112
        pen.text((0, top), _short(score.name), colour, _font(22))
        for bar, (what, share) in enumerate((("area", score.by_area), ("TokenMix", score.by_map))):
            y = top + 34 + bar * 34
            pen.text((0, y + 12), what, INK, _font(16), anchor="lm")
            pen.rectangle((82, y, 174, y + 24), FAINT)
            if share > 0.005:
                pen.rectangle((82, y, 82 + round(92 * share), y + 24), colour)
            pen.text((CROP_PX, y + 12), f"{share:.2f}", INK, _font(18), anchor="rm")
    return panel


def _short(name: str) -> str:
    return name if len(name) <= 18 else name[:17] + "…"


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
