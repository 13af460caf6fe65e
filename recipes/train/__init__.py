"""Training: the paper's recipe, whole (train.py), and the smallest loop, to copy from (minimal.py)."""
