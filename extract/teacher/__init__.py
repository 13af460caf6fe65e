"""Teachers: a model, its tokens, and the maps made of them."""
