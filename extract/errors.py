"""What can go wrong before and during an extraction, as the user sees it: where, expected, found, remedy."""


class ExtractError(Exception):
    """The extraction cannot start or go on; nothing that is already in the store is lost."""


class ImagesError(ExtractError):
    """The image list cannot be used as it is."""


class NoImageError(ExtractError):
    """A row without an image, such as a link to nothing or an empty cell: unreadable, though no file system failed."""


class TeacherError(ExtractError):
    """The teacher cannot be built, does not fit the images, or gives maps that cannot be stored."""
