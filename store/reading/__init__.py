"""A store read by row during training."""
