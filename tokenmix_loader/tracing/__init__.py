"""A training transform, and where its pixels come from."""
