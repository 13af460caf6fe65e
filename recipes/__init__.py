"""What a user copies and changes: data, training and evaluation around the maps."""
