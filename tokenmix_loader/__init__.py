"""Inside a training loop: maps -> tokens -> masks -> TokenMix targets."""

from .geometry import align
from .masks import sample_masks
from .targets import dense_targets, evidence, mix_scores, mix_targets, normalise
from .trace import TracedTransform, UntraceableTransform, trace

__all__ = [
    "TracedTransform",
    "UntraceableTransform",
    "align",
    "dense_targets",
    "evidence",
    "mix_scores",
    "mix_targets",
    "normalise",
    "sample_masks",
    "trace",
]
