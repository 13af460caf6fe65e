"""The paper's teachers at their own input size, through the command, on real photographs (random weights)."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

from extract.settings import TeacherSpec
from extract.teacher.model import build_model
from recipes.context_digits.generate import generate
from store import MapStore


@pytest.mark.parametrize(
    ("name", "count", "grid"),
    [
        ("resnet26", 6, (7, 7)),
        pytest.param("resnet101", 4, (7, 7), marks=pytest.mark.slow),
        pytest.param("dm_nfnet_f6", 3, (14, 14), marks=pytest.mark.slow),
        pytest.param("nfnet_f6", 2, (18, 18), marks=pytest.mark.slow),  # the preset: 576 px
    ],
)
def test_mean_of_the_stored_logits_is_the_models_own(
    name: str, count: int, grid: tuple[int, int], tmp_path: Path
) -> None:
    """timm's own transform and model on one side, the stored float16 maps of `tokenmix extract` on the other."""
    generate(tmp_path, count, seed=0, split="test")
    images = tmp_path / "images"
    (tmp_path / "classes.txt").write_text("".join(f"{i}\n" for i in range(1000)))  # digit 7 is class 7 of 1000
    command = [
        sys.executable, "-m", "cli", "extract", images, tmp_path / "maps", "--teacher", name, "--random-weights", "3",
        "--class-map", tmp_path / "classes.txt", "--batch-size", "2", "--workers", "0",
    ]  # fmt: skip
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    maps = MapStore(tmp_path / "maps")
    assert maps.grid == grid
    model = build_model(TeacherSpec({"nfnet_f6": "dm_nfnet_f6"}.get(name, name), random_weights=3))
    transform = create_transform(**resolve_model_data_config(model, use_test_size=name == "nfnet_f6"))
    for row in range(count):
        image = Image.open(images / maps.keys[row]).convert("RGB")
        with torch.inference_mode():
            expected = model(transform(image)[None])[0]
        stored = maps.read(np.array([row])).astype(np.float64)
        # each of the h * w values is rounded to 11 bits; the mean cannot be further off than the largest of them
        error = abs(stored.mean() - float(expected[maps.labels[row]]))
        print(f"{name} {grid}: mean of the map {stored.mean():.7g}, off the logit by {error:.2g}")
        assert error <= 2**-11 * np.abs(stored).max() + 1e-6
        assert stored.std() > 0
