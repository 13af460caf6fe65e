"""The transfer recipe: folders as they are on disk, figures with known answers, runs that are killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from recipes.context_digits.generate import generate
from recipes.transfer import segment
from recipes.transfer.measure import confusion, evaluate, figures, slide
from recipes.transfer.model import Segmenter, create_backbone, create_optimizer
from recipes.transfer.scenes import IGNORED, TrainingCrops, WholeScenes, read_scenes
from recipes.transfer.segment import Settings, Training

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"width": 8, "crop_px": 32, "short_side_px": 32, "steps": 4, "batch_size": 2, "warmup": 1}


def write_ade(root: Path, split: str, labels: np.ndarray[Any, np.dtype[np.uint8]], name: str = "a") -> None:
    """One image of these labels, in ADE20K's own folders."""
    for folder in ("images", "annotations"):
        (root / folder / split).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", labels.shape[::-1], "red").save(root / "images" / split / f"{name}.jpg")
    Image.fromarray(labels).save(root / "annotations" / split / f"{name}.png")


def test_ade_folder(tmp_path: Path) -> None:
    """Label 0 is no class; the others count from 1 there and from 0 here."""
    labels = np.repeat(np.array([[0, 1, 150]], np.uint8), 2, axis=0)
    write_ade(tmp_path, "training", labels)
    write_ade(tmp_path, "validation", labels[:, ::-1])
    training, validation = read_scenes(tmp_path), read_scenes(tmp_path, "validation")
    assert len(training) == len(validation) == 1
    assert len(training.class_names) == 150
    assert training.pair(0)[1].tolist() == [[IGNORED, 0, 149]] * 2
    assert validation.pair(0)[1].tolist() == [[149, 0, IGNORED]] * 2


def break_label(root: Path) -> None:
    (root / "annotations/training/a.png").unlink()


def break_size(root: Path) -> None:
    Image.fromarray(np.ones((2, 2), np.uint8)).save(root / "annotations/training/a.png")


def break_number(root: Path) -> None:
    Image.fromarray(np.full((2, 3), 151, np.uint8)).save(root / "annotations/training/a.png")


@pytest.mark.parametrize(
    ("harm", "error", "said"),
    [(break_label, FileNotFoundError, "found none for 1"), (break_size, ValueError, r"expected labels of \[2, 3\] px"),
     (break_number, ValueError, "labels 0 to 150, found 151")],
)  # fmt: skip
def test_broken_ade_folder(tmp_path: Path, harm: Any, error: type[Exception], said: str) -> None:
    write_ade(tmp_path, "training", np.ones((2, 3), np.uint8))
    harm(tmp_path)
    with pytest.raises(error, match=said):
        read_scenes(tmp_path).pair(0)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    with pytest.raises(FileNotFoundError, match=r"annotations/ \(ADE20K\).*found \['pictures'\]"):
        read_scenes(tmp_path)
    (tmp_path / "annotations").mkdir()
    with pytest.raises(ValueError, match="expected a split of"):
        read_scenes(tmp_path, "test")
    with pytest.raises(FileNotFoundError, match="expected images"):
        read_scenes(tmp_path)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits")
    generate(root, 20, seed=0, split="train")
    return root


def test_masks_of_a_class_folder(digits: Path) -> None:
    scenes = read_scenes(digits)
    assert scenes.class_names == ("background", *(path.name for path in sorted((digits / "images").iterdir())))
    for number, path in enumerate(scenes.images):
        mask = np.asarray(Image.open(digits / "masks" / path.parent.name / f"{path.stem}.png"))
        expected = (mask >= 128) * scenes.class_names.index(path.parent.name)
        assert np.array_equal(scenes.pair(number)[1], expected)
        assert expected.any()


def test_crops_follow_from_seed_and_position(digits: Path) -> None:
    """Images and labels move together: where a crop is padded, labels are ignored and the image is black."""
    scenes = read_scenes(digits)
    crops, again = (TrainingCrops(scenes, 48, 32, 0, (0.0,) * 3, (1.0,) * 3) for _ in range(2))
    state = torch.get_rng_state()
    drawn = [crops[position] for position in range(40)]
    assert torch.equal(state, torch.get_rng_state())
    for position in reversed(range(40)):
        for found, expected in zip(again[position], drawn[position], strict=True):
            assert torch.equal(found, expected)
    assert any(not torch.equal(first[0], second[0]) for first, second in zip(drawn[:20], drawn[20:], strict=True))
    padded = [(image, labels == IGNORED) for image, labels in drawn if (labels == IGNORED).any()]
    assert padded
    for image, ignored in padded:
        assert float(image[:, ignored].std()) < 0.02  # one colour, whatever brightness made of it
        assert not ignored.all()


@given(st.lists(st.tuples(st.sampled_from([0, 1, 2, IGNORED]), st.integers(0, 2)), min_size=1))
def test_figures_are_those_of_the_definition(pixels: list[tuple[int, int]]) -> None:
    labels, predicted = torch.tensor(pixels).T
    counted = [(label, found) for label, found in pixels if label != IGNORED]
    matrix = confusion(labels, predicted, 3)
    assert int(matrix.sum()) == len(counted)
    if not counted:
        with pytest.raises(ValueError, match="found none"):
            figures(matrix)
        return
    iou, accuracy = [], []
    for k in range(3):
        both = sum(label == found == k for label, found in counted)
        either = sum(k in pair for pair in counted)
        there = sum(label == k for label, _ in counted)
        iou += [both / either] if either else []
        accuracy += [both / there] if there else []
    assert figures(matrix).mean_iou == pytest.approx(np.mean(iou))
    assert figures(matrix).mean_accuracy == pytest.approx(np.mean(accuracy))
    assert figures(matrix).pixel_accuracy == pytest.approx(np.mean([label == found for label, found in counted]))


class ByColour(torch.nn.Module):
    """A perfect model of two classes: red is 1."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.shape[2:] == (24, 24)
        return torch.stack((images[:, 1], images[:, 0]), 1) * 100


@pytest.mark.parametrize("size", [(24, 24), (10, 50), (61, 33)])
def test_windows_cover_every_pixel(size: tuple[int, int]) -> None:
    image = torch.rand(1, 3, *size)
    assert torch.allclose(slide(ByColour(), image, 24), torch.stack((image[:, 1], image[:, 0]), 1) * 100)


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 1.75)])
def test_a_perfect_model_has_perfect_figures(scales: tuple[float, ...]) -> None:
    """Mirrored views are mirrored back, scaled ones scaled back: the left half is class 1, the right one 0."""
    image, labels = torch.zeros(3, 40, 60), torch.zeros(40, 60, dtype=torch.int64)
    image[0, :, :30], image[1, :, 30:], labels[:, :30] = 1, 1, 1
    found = evaluate(ByColour(), [(image, labels)], 2, 24, scales=scales, mirrored=True, device=CPU)
    assert found.mean_iou == 1.0


@pytest.mark.parametrize(
    ("name", "level"), [("test_vit", -1), ("test_resnet", -1), ("test_resnet", -2), ("test_efficientnet", -2)]
)
def test_any_backbone(name: str, level: int) -> None:
    backbone = create_backbone(name, None, pretrained=False, crop_px=64, drop_path=0.0)
    model = Segmenter(backbone, level, 5, 8)
    assert model(torch.rand(2, 3, 64, 64)).shape == (2, 5, 64, 64)
    groups = create_optimizer(model, 1e-3, 0.05, 0.65).param_groups
    trained = sum(p.numel() for group in groups for p in group["params"])
    assert trained == sum(p.numel() for p in model.parameters())
    scales = [group.get("lr_scale", 1.0) for group in groups]
    assert min(scales) < 0.65 < max(scales) == 1.0


def test_an_unknown_level_is_refused() -> None:
    backbone = create_backbone("test_resnet", None, pretrained=False, crop_px=64, drop_path=0.0)
    with pytest.raises(ValueError, match="-1 the last, found 9"):
        Segmenter(backbone, 9, 5, 8)


def test_a_students_checkpoint(tmp_path: Path) -> None:
    """Its classifier is left out; another model's is refused by name."""
    import timm

    student = timm.create_model("test_vit", num_classes=7)
    torch.save(student.state_dict(), tmp_path / "model.pt")
    kept = create_backbone("test_vit", tmp_path / "model.pt", pretrained=False, crop_px=64, drop_path=0.0)
    weights = student.state_dict()
    assert all(torch.equal(p, weights[n]) for n, p in kept.state_dict().items() if n != "pos_embed")
    with pytest.raises(ValueError, match="expected the tensors of test_resnet"):
        create_backbone("test_resnet", tmp_path / "model.pt", pretrained=False, crop_px=64, drop_path=0.0)


class KilledError(Exception):
    """As a signal would end it."""


def test_a_killed_run_ends_with_the_same_weights(tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drop path draws from torch's generator, which therefore has to go on too."""
    settings, scenes = Settings("test_vit", drop_path=0.5, **SMALL), read_scenes(digits)
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = Training(settings, scenes, CPU)
    whole.run(tmp_path / "whole", workers=0, save_every=2)
    killed = Training(settings, scenes, CPU)
    learn = killed._learn

    def learn_once_more(*batch: torch.Tensor) -> float:
        if killed.step == 3:
            raise KilledError
        return learn(*batch)

    monkeypatch.setattr(killed, "_learn", learn_once_more)
    with pytest.raises(KilledError):
        killed.run(tmp_path / "killed", workers=0, save_every=2)
    resumed = Training(settings, scenes, CPU)
    torch.manual_seed(99)
    resumed.run(tmp_path / "killed", workers=0, save_every=2)
    assert resumed.step == 4
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_the_command_and_other_settings(tmp_path: Path, digits: Path) -> None:
    options = "--model test_vit --width 8 --crop 32 --short-side 32 --steps 2 --batch-size 2 --warmup 1 --workers 0"
    arguments = [str(digits), str(tmp_path / "out"), "--test", str(digits), *options.split()]
    done = CliRunner().invoke(segment.main, arguments)
    assert done.exit_code == 0, done.output
    written = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert 0 <= written["mean_iou"] <= written["mean_accuracy"] <= 1
    refused = CliRunner().invoke(segment.main, [*arguments, "--lr", "1"])
    assert refused.exit_code == 1
    assert "lr: expected 0.001, with which the run began, found 1.0" in refused.output


def test_classes_of_the_test_set_must_be_those_of_the_training(tmp_path: Path, digits: Path) -> None:
    write_ade(tmp_path, "validation", np.ones((32, 32), np.uint8))
    training = Training(Settings("test_vit", **SMALL), read_scenes(digits), CPU)
    with pytest.raises(ValueError, match="expected the 11 classes of the training, found 150"):
        training.test(read_scenes(tmp_path, "validation"), multi_scale=False, workers=0)


def test_whole_scenes_keep_their_labels(digits: Path) -> None:
    scenes = read_scenes(digits)
    image, labels = WholeScenes(scenes, 40, (0.5,) * 3, (0.5,) * 3)[0]
    assert min(image.shape[1:]) == 40
    assert torch.equal(labels, scenes.pair(0)[1].long())
    assert min(labels.shape) != 40
