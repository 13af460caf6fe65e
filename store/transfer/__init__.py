"""Stores that travel: pushed to any URL that fsspec knows, pulled from there into a folder (docs/sharing.md)."""
