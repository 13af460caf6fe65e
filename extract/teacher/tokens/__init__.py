"""Where a model's tokens are, whether they lie in reading order, and the route from them to logits."""
