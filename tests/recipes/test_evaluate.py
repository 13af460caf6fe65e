"""The figures: what they are drawn from has known answers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner

from recipes.context_digits.generate import generate
from recipes.evaluate import attention, confidences, masks, occlusion, salient_area
from recipes.evaluate.batch import choose, whole_images
from recipes.evaluate.student import load_students, outputs_of
from tests.recipes.test_fidelity import ROWS, write_perfect_maps
from tokenmix_loader import MapStore


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, their masks and maps that are the masks."""
    root = tmp_path_factory.mktemp("digits")
    generate(root, ROWS, seed=0, split="test")
    write_perfect_maps(root / "maps", root / "images")
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("student") / "student.pt"
    torch.save(timm.create_model("small_vit", num_classes=10).state_dict(), path)
    return path


def test_attention_is_that_of_the_first_row() -> None:
    """Of the first layer, computed by hand from its weights."""
    torch.manual_seed(0)
    model, images = timm.create_model("small_vit").eval(), torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        block, tokens = model.blocks[0], model._pos_embed(model.patch_embed(images))
        query, key, _ = block.attn.qkv(block.norm1(tokens)).reshape(2, 65, 3, 4, 16).permute(2, 0, 3, 1, 4)
        expected = (query @ key.mT / 4).softmax(-1).mean(1)[:, 0, 1:].reshape(2, 8, 8)
    found = attention.class_token_attention(model, images)
    assert found.shape == (6, 2, 8, 8)
    assert torch.allclose(found[0], expected, atol=1e-6)


def test_attention_of_other_families() -> None:
    """CaiT's class token joins in its last two layers only; without a class token there is nothing to draw."""
    cait = timm.create_model("cait_xxs24_224", img_size=64, patch_size=16, depth=2).eval()
    assert attention.class_token_attention(cait, torch.rand(1, 3, 64, 64)).shape == (2, 1, 4, 4)
    registers = timm.create_model("test_vit3", img_size=64).eval()
    assert attention.class_token_attention(registers, torch.rand(1, 3, 64, 64)).shape[2:] == (4, 4)
    with pytest.raises(ValueError, match="class token, found none"):
        attention.class_token_attention(timm.create_model("test_resnet"), torch.rand(1, 3, 64, 64))


def test_images_of_different_classes_come_first() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    for seed in range(20):
        rows = choose(labels, 6, np.random.default_rng(seed))
        assert set(labels[rows[:3]]) == {0, 1, 2}
        assert sorted(rows) == list(range(6))


@pytest.mark.parametrize("command", [attention.main, confidences.main])
def test_a_picture_of_students(tmp_path: Path, digits: Path, checkpoint: Path, command: object) -> None:
    options = f"--model small_vit --checkpoint {checkpoint} --num-classes 10 --count 2 -o {tmp_path / 'o.png'}"
    done = CliRunner().invoke(command, [str(digits / "images"), *options.split()])  # type: ignore[arg-type]
    assert done.exit_code == 0, done.output
    assert (tmp_path / "o.png").stat().st_size > 10_000


def test_other_classes_than_the_students(digits: Path) -> None:
    done = CliRunner().invoke(confidences.main, [str(digits / "images"), "--num-classes", "7", "--model", "test_vit"])
    assert done.exit_code == 2
    assert "expected the 10 class folders" in done.output


def test_outputs_of_classes(tmp_path: Path, digits: Path) -> None:
    assert outputs_of(digits / "images", 10, None).tolist() == [*range(10)]
    (tmp_path / "names.txt").write_text("".join(f"{name}\n" for name in reversed(range(10))))
    assert outputs_of(digits / "images", 10, tmp_path / "names.txt").tolist() == [*reversed(range(10))]


@pytest.mark.parametrize("command", [attention.main, confidences.main, occlusion.main])
@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ("--num-classes 10 --model small_vi", 2, "--model small_vi: expected a network of 10 classes"),
        ("--num-classes 10 --model small_vit --model-arg depth=2", 2, "'depth': 2}, that takes the weights of"),
        ("--num-classes 10 --model small_vit --model-arg depth", 2, "expected NAME=VALUE"),
    ],
)
def test_students_that_do_not_fit(
    digits: Path, checkpoint: Path, command: Any, options: str, status: int, message: str
) -> None:
    arguments = [str(digits / "images"), "--checkpoint", str(checkpoint), *options.split()]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == status
    assert message in " ".join(done.output.split())


def test_tokens_that_do_not_fit(digits: Path, checkpoint: Path) -> None:
    options = f"--model small_vit --checkpoint {checkpoint} --num-classes 10 --grid 14"
    done = CliRunner().invoke(confidences.main, [str(digits / "images"), *options.split()])
    assert done.exit_code == 2
    assert "--grid 14: expected a divisor of the input's 64 x 64 px" in done.output


def test_answers_are_the_likeliest(checkpoint: Path) -> None:
    (student,) = load_students("small_vit", [checkpoint], (), 10, None, None, None)
    pixels = torch.rand(2, 3, 64, 64)
    expected = student.model(pixels).softmax(1)
    for answer, row in zip(confidences.answers(student, pixels), expected, strict=True):
        assert answer.classes == row.argsort(descending=True)[:3].tolist()
        assert answer.probabilities == pytest.approx(row.sort(descending=True).values[:3].tolist())


def test_a_batch_mixed_in_every_way(digits: Path) -> None:
    store = MapStore(digits / "maps")
    pixels, targets, keys, names = whole_images(digits / "images", store, 4, np.random.default_rng(0))
    assert [int(key[0]) for key in keys] == targets.label.tolist()
    found = {kind: masks.mix(pixels, targets, store, names, 14, 0, kind=kind)[0] for kind in masks.KINDS}
    assert all(not torch.equal(images, pixels) for images in found.values())
    blended, dense = masks.mix(pixels, targets, store, names, 14, 0, kind="block", mixup=True)
    share = float(dense[0, targets.label[0]])
    assert torch.allclose(blended, share * pixels + (1 - share) * pixels.flip(0), atol=1e-5)
    figure = masks.draw(pixels, targets, store, names, 14, 0)
    assert len(figure.axes) == 2 * (3 + len(masks.KINDS))


def test_areas() -> None:
    area, mask = torch.zeros(4, 4, dtype=torch.bool), torch.zeros(4, 4, dtype=torch.bool)
    area[:2], mask[:, :1] = True, True
    assert salient_area.overlap(area, mask) == (0.25, 0.5)
    assert all(math.isnan(share) for share in salient_area.overlap(area & ~area, mask & ~mask))


def test_perfect_maps_have_their_objects_area(tmp_path: Path, digits: Path) -> None:
    out = tmp_path / "o.png"
    arguments = [str(digits / "images"), str(digits / "maps"), "--masks", str(digits / "masks"), "-o", str(out)]
    done = CliRunner().invoke(salient_area.main, arguments)
    assert done.exit_code == 0, done.output
    on_object, covered = (int(word.rstrip("%")) for word in done.output.split() if word.endswith("%"))
    assert on_object > 50  # cells of 1/18 are coarse beside the strokes
    assert covered > 80
    assert out.stat().st_size > 10_000
