"""Inside a training loop: maps -> tokens -> masks -> TokenMix targets."""

from tokenmix_loader.batch import MapTarget, TokenTargets
from tokenmix_loader.join.dataset import MapDataset
from tokenmix_loader.join.streaming import MapJoin
from tokenmix_loader.mixing.collate import TokenMixCollate
from tokenmix_loader.mixing.mixup import TokenMix
from tokenmix_loader.mixing.optimal.comix import CoMixSettings
from tokenmix_loader.mixing.optimal.puzzle import PuzzleSettings
from tokenmix_loader.mixing.pixels import mix_images
from tokenmix_loader.scoring.evidence import evidence
from tokenmix_loader.scoring.geometry import align
from tokenmix_loader.scoring.guided_masks import guided_masks
from tokenmix_loader.scoring.masks import sample_masks
from tokenmix_loader.scoring.read_tokens import read_tokens
from tokenmix_loader.scoring.targets import mix_targets
from tokenmix_loader.scoring.token_loss import TokenLabelLoss
from tokenmix_loader.store_access import MapStore
from tokenmix_loader.tracing.trace import UntraceableTransform, trace

__all__ = [
    "CoMixSettings",
    "MapDataset",
    "MapJoin",
    "MapStore",
    "MapTarget",
    "PuzzleSettings",
    "TokenLabelLoss",
    "TokenMix",
    "TokenMixCollate",
    "TokenTargets",
    "UntraceableTransform",
    "align",
    "evidence",
    "guided_masks",
    "mix_images",
    "mix_targets",
    "read_tokens",
    "sample_masks",
    "trace",
]
