"""From maps to targets: evidence, geometry, masks, scores."""
