"""Other people's containers in the place of an image folder: Hugging Face datasets and WebDataset shards."""
