"""One picture that shows a person what the targets are made of: crops, maps, mask, mixed image, scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torchvision.transforms import Compose, PILToTensor, RandomHorizontalFlip, RandomResizedCrop

from tokenmix_loader.batch import NO_MAP, MapTarget
from tokenmix_loader.join.fingerprints import require_same_files
from tokenmix_loader.join.original_images import Images, Ints, read_photograph, require_readable
from tokenmix_loader.join.rows import check_size, find_rows
from tokenmix_loader.mixing.pixels import mix_images
from tokenmix_loader.scoring.masks import sample_masks
from tokenmix_loader.scoring.read_tokens import read_tokens
from tokenmix_loader.scoring.targets import mix_scores
from tokenmix_loader.store_access import MapStore
from tokenmix_loader.tracing.trace import trace

CROP_PX, TOKENS = 224, 14
TOKEN_PX = CROP_PX // TOKENS
GAP, HEADER, MARGIN = 12, 44, 16
TITLES = ("image a", "its map", "image b", "its map", "mask: a orange, b blue", "mixed image", "scores")
INK, PAPER, FAINT = (24, 26, 32), (255, 255, 255), (226, 229, 235)
COLOR_A, COLOR_B = (214, 94, 0), (0, 114, 178)  # distinct for colour-blind readers too
# Dark to bright with even steps of lightness, so that heat reads the same in grey.
HEAT = np.array([(0, 0, 0), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164)], float)

Colour = tuple[int, int, int]


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
    rng = np.random.default_rng(seed)
    chosen = _choose(images.labels, require_readable(maps, np.flatnonzero(rows != NO_MAP)), pairs, rng)
    pixels, targets = _crop(images, chosen, rows, maps.sizes, seed)
    masks = sample_masks(rng, pairs, (TOKENS, TOKENS), kind=mask_kind).repeat(2, 1, 1)
    masks[pairs:] = ~masks[:pairs].flip(0)  # images a, then images b backwards: partners as in a mixed batch
    tokens = read_tokens(maps, targets, (TOKENS, TOKENS), evidence)
    partner = torch.arange(2 * pairs).flip(0)
    score_a, score_b = mix_scores(tokens, masks, partner)
    mixed = mix_images(pixels, masks)
    names = [images.class_names[int(label)] for label in targets.label]
    lines = []
    for a in range(pairs):
        b = int(partner[a])
        area = float(masks[a].float().mean())
        scores = ((names[a], COLOR_A, area, float(score_a[a])), (names[b], COLOR_B, 1 - area, float(score_b[a])))
        photos = [_photo(pixels[a]), _heat(pixels[a], tokens[a]), _photo(pixels[b]), _heat(pixels[b], tokens[b])]
        lines.append([*photos, _mask(masks[a]), _photo(mixed[a]), _scores(scores)])
    return _sheet(lines)


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


def _choose(labels: Ints, usable: Ints, pairs: int, rng: np.random.Generator) -> list[int]:
    """`pairs` images a, then their partners b in reverse order; labels differ where the data has more than one."""
    first = [int(i) for i in rng.choice(usable, pairs, replace=len(usable) < pairs)]
    partners = []
    for a in first:
        others = usable[labels[usable] != labels[a]]
        partners.append(int(rng.choice(others if len(others) else usable)))
    return first + partners[::-1]


def _crop(images: Images, chosen: list[int], rows: Ints, sizes: Ints, seed: int) -> tuple[torch.Tensor, MapTarget]:
    """Random resized and flipped crops, uint8 [B, 3, H, W], and their targets; `sizes`: of the store's rows."""
    transform = trace(Compose([RandomResizedCrop(CROP_PX, scale=(0.3, 1.0)), RandomHorizontalFlip(), PILToTensor()]))
    views = []
    with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's global generator
        torch.manual_seed(seed)
        for row in chosen:
            photograph, size = read_photograph(images, row)
            check_size(images.keys[row], size, sizes[rows[row]].tolist())
            views.append(transform.placed(photograph))
    pixels, places = zip(*views, strict=True)
    labels = torch.from_numpy(images.labels[chosen].astype(np.int64))
    return torch.stack(pixels), MapTarget(labels, torch.from_numpy(rows[chosen]), torch.from_numpy(np.stack(places)))


def _photo(pixels: torch.Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def _heat(pixels: torch.Tensor, tokens: torch.Tensor) -> Image.Image:
    """The crop in grey under its token map; brightness scaled to the map's own peak."""
    heat = (
        (tokens / tokens.max().clamp_min(1e-12)).repeat_interleave(TOKEN_PX, 0).repeat_interleave(TOKEN_PX, 1).numpy()
    )
    stops = np.linspace(0, 1, len(HEAT))
    colour = np.stack([np.interp(heat, stops, HEAT[:, c]) for c in range(3)], -1)
    grey = pixels.float().mean(0).numpy()[..., None]
    return Image.fromarray((0.35 * grey + 0.65 * colour).astype(np.uint8))


def _mask(mask: torch.Tensor) -> Image.Image:
    """Each token in the colour of the image that it comes from."""
    colour = np.where(mask.numpy()[..., None], np.array(COLOR_A), np.array(COLOR_B)).astype(np.uint8)
    panel = Image.fromarray(colour).resize((CROP_PX, CROP_PX), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(panel)
    for at in range(TOKEN_PX, CROP_PX, TOKEN_PX):
        pen.line([(at, 0), (at, CROP_PX)], PAPER)
        pen.line([(0, at), (CROP_PX, at)], PAPER)
    return panel


def _scores(lines: Sequence[tuple[str, Colour, float, float]]) -> Image.Image:
    """Bars of both labels' area and TokenMix scores: (name, colour, area score, TokenMix score)."""
    panel = Image.new("RGB", (CROP_PX, CROP_PX), PAPER)
    pen = ImageDraw.Draw(panel)
    for block, (name, colour, by_area, by_map) in enumerate(lines):
        top = 4 + block * 112
        pen.text((0, top), _short(name), colour, _font(22))
        for bar, (what, score) in enumerate((("area", by_area), ("TokenMix", by_map))):
            y = top + 34 + bar * 34
            pen.text((0, y + 12), what, INK, _font(16), anchor="lm")
            pen.rectangle((82, y, 174, y + 24), FAINT)
            if score > 0.005:
                pen.rectangle((82, y, 82 + round(92 * score), y + 24), colour)
            pen.text((CROP_PX, y + 12), f"{score:.2f}", INK, _font(18), anchor="rm")
    return panel


def _short(name: str) -> str:
    return name if len(name) <= 18 else name[:17] + "…"


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
