"""What the tests of traced transforms share."""

import random
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import transforms as tv

from tokenmix_loader.tracing.trace import TracedTransform


def ramps(width: int = 220, height: int = 160) -> Image.Image:
    """Red is the pixel's column, green its row."""
    row, column = np.mgrid[:height, :width]
    return Image.fromarray(np.stack((column, row, 0 * row), axis=2).astype(np.uint8))


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 -- transforms draw from the global generators
    torch.manual_seed(seed)


def next_draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(torch.rand(1))  # noqa: NPY002


def assert_same_run(transform: Any, seed: int) -> None:
    traced = TracedTransform(transform)  # without the test of `trace`, whose tests are elsewhere: it takes time
    seed_all(seed)
    plain = [np.asarray(transform(ramps())) for _ in range(2)]
    after_plain = next_draws()
    seed_all(seed)
    traced_images = [np.asarray(traced(ramps())[0]) for _ in range(2)]
    assert next_draws() == after_plain
    np.testing.assert_array_equal(traced_images, plain)


def landmark_errors_px(transform: Any, seed: int) -> torch.Tensor:
    """How far the affine is from what the pixels themselves say, in source pixels, off the borders."""
    image = ramps()
    seed_all(seed)
    pixels, affine = TracedTransform(tv.Compose([transform, tv.PILToTensor()]))(image)
    height, width = pixels.shape[1:]
    v, u = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    x, y = torch.from_numpy(affine) @ torch.stack((u, v, torch.ones_like(u))).double().flatten(1)
    expected = torch.stack((x * image.width, y * image.height)) - 0.5
    shown = pixels[:2].flatten(1)
    # Resampling clamps at the borders of what it is given: leave out an eighth on every side.
    inner = ((u - 0.5).abs() < 0.375) & ((v - 0.5).abs() < 0.375)
    in_image = (x > 0.03) & (x < 0.97) & (y > 0.03) & (y < 0.97)
    errors: torch.Tensor = (shown - expected).abs()
    return errors[:, inner.flatten() & in_image]
