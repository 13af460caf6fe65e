"""A store checked, and what is damaged taken away."""
