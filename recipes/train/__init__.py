"""A training script to copy."""
