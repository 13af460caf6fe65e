"""The kinds: named alike everywhere, and every other name refused."""

import pytest

from extract import settings
from extract.errors import TeacherError
from extract.settings import TeacherSpec
from extract.teacher.kinds.registry import KIND_CLASSES
from extract.teacher.packaged import PACKAGES
from extract.teacher.presets import PRESETS, make_teacher
from extract.teacher.saliency import NAME as SALIENCY
from store import spec


def test_command_line_teacher_and_store_know_the_same_kinds() -> None:
    assert set(settings.KINDS) == set(KIND_CLASSES) == set(spec.KINDS)
    assert len(settings.KINDS) == len(spec.KINDS)


def test_command_line_and_teachers_have_the_same_names() -> None:
    assert sorted(settings.NAMED_TEACHERS) == sorted([*PRESETS, *PACKAGES, SALIENCY])


@pytest.mark.parametrize("kind", KIND_CLASSES)
def test_a_kind_fills_the_datasets_of_the_store(kind: str) -> None:
    assert KIND_CLASSES[kind].datasets == tuple(name for name, _ in spec.KINDS[kind])


def test_an_unknown_kind() -> None:
    with pytest.raises(TeacherError, match="--kind: expected one of label, topk, cam, activation, features, found raw"):
        make_teacher(TeacherSpec("test_resnet", random_weights=0, kind="raw"))


OPTIONS = [
    ("top_k", 3, "topk", "--top-k"),
    ("cam_stage", "layer1", "cam", "--cam-stage"),
    ("scales", (1.0, 2.0), "cam", "--scales"),
    ("cam_grid", 14, "cam", "--cam-grid"),
    ("rivals", 0, "cam", "--rivals"),
    ("spread", True, "cam", "--spread"),
    ("spread", False, "cam", "--no-spread"),
]


@pytest.mark.parametrize(("option", "value", "kind", "spelled"), OPTIONS)
def test_an_option_of_another_kind(option: str, value: object, kind: str, spelled: str) -> None:
    given = TeacherSpec("test_resnet", random_weights=0, **{option: value})  # type: ignore[arg-type]
    with pytest.raises(TeacherError, match=f"{spelled}: expected --kind {kind}, found --kind label"):
        make_teacher(given)
