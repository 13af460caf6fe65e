"""Real photographs under a real ImageNet teacher, without a hub."""
