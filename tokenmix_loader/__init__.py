"""Inside a training loop: maps -> tokens -> masks -> TokenMix targets."""

from tokenmix_loader._store import MapStore
from tokenmix_loader.collate import TokenMixCollate, collate_targets
from tokenmix_loader.dataset import MapDataset, MapTarget
from tokenmix_loader.geometry import align, refine
from tokenmix_loader.masks import guided_masks, sample_masks
from tokenmix_loader.mixup import TokenMix
from tokenmix_loader.pixels import mix_images
from tokenmix_loader.recipe import Recipe
from tokenmix_loader.soft import SoftLabels, read_soft_labels
from tokenmix_loader.streaming import MapJoin
from tokenmix_loader.targets import dense_targets, evidence, mix_scores, mix_targets, normalise
from tokenmix_loader.token_labeling import TokenLabelLoss, TokenTargets
from tokenmix_loader.tokens import read_tokens
from tokenmix_loader.trace import TracedTransform, UntraceableTransform, trace

__all__ = [
    "MapDataset",
    "MapJoin",
    "MapStore",
    "MapTarget",
    "Recipe",
    "SoftLabels",
    "TokenLabelLoss",
    "TokenMix",
    "TokenMixCollate",
    "TokenTargets",
    "TracedTransform",
    "UntraceableTransform",
    "align",
    "collate_targets",
    "dense_targets",
    "evidence",
    "guided_masks",
    "mix_images",
    "mix_scores",
    "mix_targets",
    "normalise",
    "read_soft_labels",
    "read_tokens",
    "refine",
    "sample_masks",
    "trace",
]
