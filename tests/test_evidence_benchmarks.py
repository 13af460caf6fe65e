"""The benchmarks of evidence: their arithmetic on cases that are known, and that every variant is made."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.evidence import passes
from benchmarks.evidence.passes import FEATURES, REDUCTIONS, SCALES, TARGETS, USUAL, Passes
from benchmarks.evidence.scores import BARE, Images, bare, errors_of, interval, mass_inside
from benchmarks.evidence.tables import PAGES, ROOT, filled
from benchmarks.evidence.variants import THREE, geometric, readings, variants, walk
from benchmarks.evidence.view import IN_VIEW, chosen, share_in_view
from extract import TeacherSpec
from extract.teacher.kinds.cam import contested
from extract.teacher.timm_teacher import TimmTeacher
from recipes.context_digits.scene import PHOTOGRAPHS

WHOLE = torch.tensor([[0.0, 0.0, 1.0, 1.0]])


def half_masks(count: int, side: int = 64) -> list[Image.Image]:
    """Objects that fill the left half."""
    pixels = np.zeros((side, side), np.uint8)
    pixels[:, : side // 2] = 255
    return [Image.fromarray(pixels) for _ in range(count)]


def test_the_true_mask_has_no_error_and_the_wrong_half_more_than_area() -> None:
    masks = half_masks(6)
    true = torch.zeros(6, 28, 28)
    true[:, :, :14] = 1
    given = {"true": (true, WHOLE.repeat(6, 1)), "wrong": (true.flip(2), WHOLE.repeat(6, 1))}
    errors, image = errors_of(given, masks, seeds=2)
    assert errors.keys() == {"area", "true", "wrong"}
    assert all(len(error) == len(image) for error in errors.values())
    assert set(image.tolist()) <= set(range(6))
    assert errors["true"].mean() < 0.02 < errors["area"].mean() < errors["wrong"].mean()


def test_an_interval_holds_the_ratio_and_is_a_point_where_all_are_alike() -> None:
    area = torch.full((40,), 2.0)
    group = np.arange(40) % 10
    assert interval({"area": area, "half": area / 2}, group, "half") == (0.5, 0.5)
    mixed = torch.linspace(0, 2, 40)
    low, high = interval({"area": area, "mixed": mixed}, group, "mixed")
    assert low < 0.5 < high
    assert interval({"area": area, "mixed": mixed}, group, "mixed", "mixed") == (0, 0)


def test_mass_inside() -> None:
    maps = torch.zeros(1, 4, 4)
    maps[:, :, 1:3] = 1  # half of it on the left
    assert mass_inside(maps, WHOLE, half_masks(1)) == pytest.approx(0.5, abs=0.01)
    assert mass_inside(maps, torch.tensor([[0.0, 0.0, 0.5, 1.0]]), half_masks(1)) == pytest.approx(1, abs=0.02)


def test_photographs_without_objects_are_some_of_the_recipe() -> None:
    assert set(BARE) < set(PHOTOGRAPHS)
    images = Images([], np.arange(2), np.array([BARE[0], "chelsea.png"]))
    assert bare(images).tolist() == [True, False]


def test_the_share_of_an_object_in_view_and_one_image_per_object() -> None:
    (mask,) = half_masks(1)
    assert share_in_view(mask, WHOLE[0]) == 1 > IN_VIEW
    assert share_in_view(mask, torch.tensor([0.25, 0.0, 1.0, 1.0])) == 0.5
    images = Images([], np.array([0, 0, 1, 2]), np.array(["a"] * 4))
    assert chosen(np.array([0.1, 0.2, 0.3, np.nan]), images) == ([0, 2], [2, 1])


def random_passes(images: int = 2, side: int = 6) -> Passes:
    generator = torch.Generator().manual_seed(0)
    names = [f"{target}, product" for target in TARGETS] + [f"logit, {name}" for name in REDUCTIONS]
    names += [f"{USUAL}, mirrored", f"{THREE}, scale 2", *(f"{USUAL}, scale {scale:g}" for scale in SCALES[1:])]
    passes = {name: torch.rand(images, 6, side, side, generator=generator) for name in names}
    names = [f"features {number}, scale {scale:g}" for scale, numbers in FEATURES.items() for number in numbers]
    passes |= {name: torch.randn(images, 3, side, side, generator=generator) for name in names}
    return passes


def test_every_variant_is_made() -> None:
    fused, spread = variants(random_passes())
    for groups in (fused, spread):
        for part, by_choice in groups.items():
            for choice, maps in by_choice.items():
                assert maps.shape == (2, 6, 6), (part, choice)
                assert maps.isfinite().all(), (part, choice)
                assert (maps >= 0).all(), (part, choice)
    assert fused.keys() | {"spread by"} == spread.keys()


def test_what_the_job_stores_is_among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass of a small teacher, put together by the benchmark and by the kind."""
    stages = ("layer1", "layer2", "layer3", "layer4")
    monkeypatch.setattr(passes, "STAGES", stages)
    monkeypatch.setattr(passes, "FEATURES", {1.0: (1, 2, 3)})
    settings: dict[str, Any] = {"kind": "cam", "random_weights": 0, "num_classes": 10, "input_size": (64, 64)}
    kinds: list[Any] = [
        TimmTeacher(TeacherSpec("test_resnet", **settings, cam_stage=stage))._kind
        for stage in (",".join(stages), "layer2,layer3,layer4")
    ]
    kinds[0].grid = kinds[1].grid
    images, labels, found = torch.randn(3, 3, 64, 64), torch.arange(3), Passes()
    maps = passes._maps_of(kinds[0], images, labels, TARGETS, found, 1.0)
    by = walk([found[f"features {number}, scale 1"].float() for number in (1, 2, 3)])
    label, rivals = (
        by(geometric(list(maps[name]["product"][:, 1:].float().unbind(1)))) for name in ("logit", "rivals")
    )
    stored = kinds[1].maps(images, labels, flipped=False).payload["label_cam"]
    torch.testing.assert_close(contested(label, rivals), stored, rtol=0, atol=0.01)  # passes are kept as float16
    assert (stored - label).abs().max() > 0.05


def test_readings_of_a_map() -> None:
    maps = torch.tensor([[[0.0, 0.1], [0.9, 1.0]]])
    assert readings(maps)["Otsu's upper part, 1"].tolist() == [[[0, 0], [1, 1]]]
    torch.testing.assert_close(readings(maps)["Otsu's upper part as it is"], torch.tensor([[[0, 0], [0.9, 1.0]]]))


@pytest.mark.parametrize("page", PAGES)
def test_the_tables_of_the_pages_are_the_results(page: str) -> None:
    text = (ROOT / page).read_text()
    assert filled(text) == text
    assert "<!-- table: " in text
