"""The ordered list of images, from folders, tars and tables, and the classes that they show."""

from extract.images.listing import list_images

__all__ = ["list_images"]
