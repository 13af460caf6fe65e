"""What the teachers of published maps saw; the rows themselves are tested with the import."""

import numpy as np
import pytest

from extract.published.map_rows import view_of


@pytest.mark.parametrize(
    ("mode", "crop_pct", "expected"),
    [("center", 1, [0.25, 0, 0.75, 1]), ("center", 0.5, [0.375, 0.25, 0.625, 0.75]), ("squash", 1, [0, 0, 1, 1])],
)
def test_views(mode: str, crop_pct: float, expected: list[float]) -> None:
    wide = np.array([[200, 100], [100, 200]], np.int32)
    views = view_of(wide, mode, crop_pct)
    np.testing.assert_allclose(views[0], expected)
    np.testing.assert_allclose(views[1], np.array(expected)[[1, 0, 3, 2]])
