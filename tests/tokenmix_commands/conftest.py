"""What tests of the commands share with those of extraction."""

from tests.extract.conftest import make_folder

__all__ = ["make_folder"]
