"""Inside a training loop: maps -> tokens -> masks -> TokenMix targets."""

from tokenmix_loader.batch import MapTarget, SoftLabels, TokenTargets
from tokenmix_loader.join.dataset import MapDataset
from tokenmix_loader.join.streaming import MapJoin
from tokenmix_loader.mixing.collate import TokenMixCollate, collate_targets
from tokenmix_loader.mixing.mixup import TokenMix
from tokenmix_loader.mixing.pixels import mix_images
from tokenmix_loader.mixing.recipe import Recipe
from tokenmix_loader.scoring.geometry import align, refine
from tokenmix_loader.scoring.guided_masks import guided_masks
from tokenmix_loader.scoring.masks import sample_masks
from tokenmix_loader.scoring.soft_labels import read_soft_labels
from tokenmix_loader.scoring.targets import dense_targets, evidence, mix_scores, mix_targets, normalise
from tokenmix_loader.scoring.token_loss import TokenLabelLoss
from tokenmix_loader.scoring.tokens import read_tokens
from tokenmix_loader.store_access import MapStore
from tokenmix_loader.tracing.trace import TracedTransform, UntraceableTransform, trace

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
