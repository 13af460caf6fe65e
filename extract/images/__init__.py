"""The ordered list of images, from folders, tars and tables."""
