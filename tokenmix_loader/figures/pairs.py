"""Random mixes of training crops: pictures of what is mixed, and what both labels score by area and by maps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torchvision.transforms import Compose, PILToTensor, RandomHorizontalFlip, RandomResizedCrop

from tokenmix_loader.batch import MapTarget
from tokenmix_loader.join.original_images import Images, Ints, read_photograph
from tokenmix_loader.join.rows import check_size
from tokenmix_loader.mixing.pixels import mix_images
from tokenmix_loader.scoring.masks import sample_masks
from tokenmix_loader.scoring.read_tokens import read_tokens
from tokenmix_loader.scoring.targets import mix_scores
from tokenmix_loader.store_access import MapStore
from tokenmix_loader.tracing.trace import trace

CROP_PX, TOKENS = 224, 14
TOKEN_PX = CROP_PX // TOKENS
PAPER = (255, 255, 255)
COLOR_A, COLOR_B = (214, 94, 0), (0, 114, 178)  # distinct for colour-blind readers too
# Dark to bright with even steps of lightness, so that heat reads the same in grey.
HEAT = np.array([(0, 0, 0), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164)], float)


class Score(NamedTuple):
    """What a mixed image is worth for one of its two labels: by area, and by its map."""

    name: str
    by_area: float
    by_map: float


class MixedPair(NamedTuple):
    """Pictures of CROP_PX x CROP_PX: image a, its map, image b, its map, the mask, the mixed image; and both scores."""

    panels: tuple[Image.Image, ...]
    scores: tuple[Score, Score]


def mix_pairs(
    images: Images,
    maps: MapStore,
    rows: Ints,
    usable: Ints,
    pairs: int,
    seed: int,
    evidence: str = "auto",
    mask_kind: str = "block",
) -> list[MixedPair]:
    """`pairs` random mixes of different labels. `rows` [N]: the store's row of each image; `usable`: those with a map.

    Raises OSError for an image that cannot be decoded, StoreMismatch for one of another shape than its map.
    """
    rng = np.random.default_rng(seed)
    chosen = _choose(images.labels, usable, pairs, rng)
    pixels, targets = _crop(images, chosen, rows, maps.sizes, seed)
    masks = sample_masks(rng, pairs, (TOKENS, TOKENS), kind=mask_kind).repeat(2, 1, 1)
    masks[pairs:] = ~masks[:pairs].flip(0)  # images a, then images b backwards: partners as in a mixed batch
    tokens = read_tokens(maps, targets, (TOKENS, TOKENS), evidence)
    partner = torch.arange(2 * pairs).flip(0)
    score_a, score_b = mix_scores(tokens, masks, partner)
    mixed = mix_images(pixels, masks)
    names = [images.class_names[int(label)] for label in targets.label]
    found = []
    for a in range(pairs):
        b = int(partner[a])
        area = float(masks[a].float().mean())
        scores = Score(names[a], area, float(score_a[a])), Score(names[b], 1 - area, float(score_b[a]))
        photos = _photo(pixels[a]), _heat(pixels[a], tokens[a]), _photo(pixels[b]), _heat(pixels[b], tokens[b])
        found.append(MixedPair((*photos, _mask(masks[a]), _photo(mixed[a])), scores))
    return found


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
    grey = pixels.float().mean(0).numpy()[..., None]
    return Image.fromarray((0.35 * grey + 0.65 * heat_colour(heat)).astype(np.uint8))


def heat_colour(heat: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Numbers from 0 to 1, [h, w], as colours of HEAT, [h, w, 3]."""
    stops = np.linspace(0, 1, len(HEAT))
    return np.stack([np.interp(heat, stops, channel) for channel in HEAT.T], axis=-1)


def _mask(mask: torch.Tensor) -> Image.Image:
    """Each token in the colour of the image that it comes from."""
    colour = np.where(mask.numpy()[..., None], np.array(COLOR_A), np.array(COLOR_B)).astype(np.uint8)
    panel = Image.fromarray(colour).resize((CROP_PX, CROP_PX), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(panel)
    for at in range(TOKEN_PX, CROP_PX, TOKEN_PX):
        pen.line([(at, 0), (at, CROP_PX)], PAPER)
        pen.line([(0, at), (CROP_PX, at)], PAPER)
    return panel
