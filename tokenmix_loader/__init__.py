"""Inside a training loop: maps -> tokens -> masks -> TokenMix targets."""

from .geometry import align
from .masks import sample_masks
from .targets import dense_targets, evidence, mix_scores, mix_targets, normalise

__all__ = ["align", "dense_targets", "evidence", "mix_scores", "mix_targets", "normalise", "sample_masks"]
