"""Compiled loops for the CPU; `door` is the only module that others import."""
