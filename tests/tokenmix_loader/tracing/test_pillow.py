import pytest
from PIL import Image

from tests.tokenmix_loader.tracing.traced_runs import ramps
from tokenmix_loader.tracing.pillow import apply_recorded


def test_an_operation_that_does_nothing_gives_the_image_itself() -> None:
    image = ramps()
    assert apply_recorded(lambda given: given, image) is image


def test_a_transform_that_is_not_affine_is_refused() -> None:
    perspective = (1, 0, 0, 0, 1, 0, 0.001, 0)
    with pytest.raises(TypeError, match="expected an affine transform, found 2; leave it out"):
        apply_recorded(lambda given: given.transform((8, 8), Image.Transform.PERSPECTIVE, perspective), ramps())
