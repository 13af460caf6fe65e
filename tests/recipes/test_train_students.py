"""Every family of the paper's Table 1 as a student, and others: grids, tokens, two steps."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

from recipes.train.settings import Settings, TrainingError
from recipes.train.students import WithTokens, create_student, mask_grid
from tests.recipes.test_train import SMALL, Digits, _one_thread, digits, run

__all__ = ["_one_thread", "digits"]  # fixtures

FAMILIES = {  # each as small as it goes, and the masks' grid
    "deit_tiny_patch16_224": (32, ("depth=1", "embed_dim=48"), (2, 2)),
    "deit_tiny_distilled_patch16_224": (32, ("depth=1", "embed_dim=48"), (2, 2)),
    "cait_xxs24_224": (32, ("depth=1", "depth_token_only=1", "embed_dim=48"), (2, 2)),
    "pvt_v2_b0": (64, ("depths=(1,1,1,1)", "embed_dims=(8,16,40,64)"), (4, 4)),
    "swin_tiny_patch4_window7_224": (64, ("depths=(1,1,1,1)", "embed_dim=24"), (4, 4)),
    "resnet18": (64, ("layers=(1,1,1,1)", "channels=(8,8,8,8)"), (4, 4)),
    "convnext_atto": (64, ("depths=(1,1,1,1)", "dims=(8,16,32,64)"), (4, 4)),
    "mixer_s16_224": (32, (), (2, 2)),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_trains_for_two_steps(digits: Digits, tmp_path: Path, name: str) -> None:
    side, arguments, grid = FAMILIES[name]
    settings = replace(SMALL, model=name, img_size=side, model_arg=arguments, epochs=1)
    assert create_student(settings, 10).grid == grid
    (row,) = run(digits, tmp_path, settings)
    assert 0 < (row["loss"] or math.nan) < 3
    torch.manual_seed(settings.seed)
    before = create_student(settings, 10).model.state_dict()
    after = torch.load(tmp_path / "last.pt", weights_only=True)["state_dict"]
    assert before.keys() == after.keys()
    learned = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(learned) > 0.8 * len([*create_student(settings, 10).model.parameters()])


@pytest.mark.parametrize(
    "name", ["deit_tiny_patch16_224", "cait_xxs24_224", "swin_tiny_patch4_window7_224", "resnet18"]
)
def test_tokenlabeling_trains_any_network_with_one_classifier(digits: Digits, tmp_path: Path, name: str) -> None:
    side, arguments, _ = FAMILIES[name]
    settings = replace(SMALL, model=name, img_size=side, model_arg=arguments, epochs=1, supervision="tokenlabeling")
    assert create_student(settings, 10).grid == (2, 2)  # the tokens that are classified: those of the last stage
    (row,) = run(digits, tmp_path, settings)
    assert 2 < (row["loss"] or math.nan) < 8


@pytest.mark.parametrize(
    ("name", "size", "by_token", "grid"),
    [
        ("deit_small_patch16_224", 224, False, 14),
        ("vit_tiny_patch16_384", 384, False, 24),
        ("vit_small_patch32_224", 224, False, 7),
        ("cait_xxs24_224", 224, False, 14),
        ("mixer_s16_224", 224, False, 14),
        ("swin_tiny_patch4_window7_224", 224, False, 14),
        ("swin_tiny_patch4_window7_224", 224, True, 7),
        ("pvt_v2_b1", 224, False, 14),
        ("resnet50", 224, False, 14),
        ("resnet50", 224, True, 7),
        ("convnext_tiny", 288, False, 18),
    ],
)
def test_masks_have_tokens_of_16_px_where_the_network_has_none_of_its_own(
    name: str, size: int, by_token: bool, grid: int
) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    settings = Settings(model=name, supervision="tokenlabeling" if by_token else "tokenmix")
    assert mask_grid(model, (size, size), settings)[0] == (grid, grid)


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224"])
def test_tokens_are_classified_one_by_one_in_row_order(name: str) -> None:
    """After pooling these networks have one linear layer, so the mean over tokens is the class logit."""
    _, arguments, _ = FAMILIES[name]
    settings = Settings(model=name, img_size=96, model_arg=arguments, supervision="tokenlabeling")
    student = create_student(settings, 10)
    network = student.network.eval()
    assert isinstance(network, WithTokens)
    with torch.no_grad():
        images = torch.rand(2, 3, 96, 96)
        logits, by_token = network(images)
        features = student.model.forward_features(images)
        third = features[:, :, 0, 2] if name == "resnet18" else features[:, 0, 2]
        expected = student.model.get_classifier()(third)
    assert torch.allclose(by_token.mean(dim=1), logits, atol=1e-5)
    assert torch.allclose(by_token[:, 2], expected, atol=1e-5)


def test_tokenlabeling_refuses_two_classifiers() -> None:
    settings = Settings(model="deit_tiny_distilled_patch16_224", supervision="tokenlabeling")
    with pytest.raises(TrainingError, match="tokenlabeling: deit_tiny_distilled_patch16_224: expected"):
        create_student(settings, 10)
    with pytest.raises(TrainingError, match="leave --grid out"):
        create_student(Settings(model="test_resnet", img_size=64, grid=4, supervision="tokenlabeling"), 10)
