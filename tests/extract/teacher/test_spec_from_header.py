"""A teacher built again by its header is the same teacher, whatever the kind and the options."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from extract.settings import TeacherSpec
from extract.teacher.kinds.registry import KIND_CLASSES
from extract.teacher.presets import make_teacher
from extract.teacher.protocol import Teacher, spec_from_header
from extract.teacher.timm_teacher import TimmTeacher
from store import Header

SPECS: dict[str, dict[str, Any]] = {
    **{kind: {"kind": kind} for kind in KIND_CLASSES},
    "top_k": {"kind": "topk", "top_k": 2},
    "cam_stage": {"kind": "cam", "cam_stage": "layer2"},
    "neither spread nor rivals": {"kind": "cam", "spread": False, "rivals": 0},
    "cam_grid": {"kind": "cam", "cam_grid": 5, "rivals": 1},
    "class_token": {"name": "test_vit", "input_size": (160, 160), "class_token": True},
    "class_token, but no use for it": {"class_token": True},
    "model_args": {"model_args": {"output_stride": 8, "act_layer": "relu"}},
    "flip_average": {"flip_average": True},
    "amp": {"amp": "bf16"},
    "input": {"input_size": (64, 96), "crop_mode": "border", "crop_pct": 0.9},
    "num_classes": {"num_classes": 7},
    "saliency": {"name": "saliency", "kind": "activation"},
    "saliency, options": {"name": "saliency", "kind": "activation", "input_size": (64, 32), "flip_average": True},
}


def header_of(teacher: Teacher) -> Header:
    """As the job makes it, and as it comes back from the file."""
    classes = [f"c{number}" for number in range(max(1, teacher.num_classes))]
    outputs = list(range(teacher.num_classes))
    header = Header(
        kind=teacher.spec.kind,
        teacher=teacher.header(),
        preprocessing=teacher.preprocessing.header(),
        grid=teacher.grid,
        dtype="float16",
        rows=1,
        shard_rows=1,
        dataset={"root_name": "images", "class_names": classes, "teacher_class": outputs, "digest": ""},
        versions={},
        depth=teacher.depth,
    )
    return Header.from_json(header.to_json())


@pytest.mark.parametrize("options", SPECS.values(), ids=SPECS)
def test_round_trip(options: dict[str, Any], tmp_path: Path) -> None:
    saliency = options.get("name") == "saliency"
    given = {} if saliency else {"random_weights": 0, "input_size": (96, 96)}
    teacher = make_teacher(TeacherSpec(**{"name": "test_resnet", **given, **options}, device="cpu"))
    checkpoint = None
    if isinstance(teacher, TimmTeacher):
        checkpoint = tmp_path / "weights.safetensors"
        weights = {name: tensor.contiguous() for name, tensor in teacher.model.state_dict().items()}
        safetensors.torch.save_file(weights, checkpoint)
    stored = header_of(teacher)
    rebuilt = header_of(make_teacher(spec_from_header(stored, checkpoint=checkpoint, device="cpu")))
    for header in (stored, rebuilt):
        header.teacher.pop("source", None)  # type: ignore[attr-defined]
    assert rebuilt == stored
