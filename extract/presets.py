"""Teachers by a short name: the published one and two light ones, with the input that their weights like best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from extract.saliency import NAME as SALIENCY
from extract.saliency import SaliencyTeacher
from extract.teacher import Teacher, TeacherSpec

# Options as `tokenmix extract` takes them; what the user gives goes first.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    # TokenMix's teacher. 18 x 18 tokens of 3072 channels, 438 M parameters, 755 GFLOP per image. Its size at test
    # time, 576 px (timm's test_input_size; 448 is that of training), as the released maps have it.
    # `tokenmix extract IMAGES maps --teacher nfnet_f6 --pretrained --amp bf16`: 0.83 GB for ImageNet-1k.
    "nfnet_f6": {"name": "dm_nfnet_f6", "input_size": (576, 576)},
    # Light teachers: the paper finds that they cost almost nothing in accuracy. 7 x 7 tokens; 0.13 GB.
    "resnet101": {"name": "resnet101"},
    "resnet26": {"name": "resnet26"},
}


def apply_preset(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with a preset's in the place of those that were not given; `name` becomes timm's."""
    preset = PRESETS.get(options["name"], {})
    chosen = {name: value for name, value in preset.items() if name == "name" or options.get(name) is None}
    return {**options, **chosen}


def make_teacher(spec: TeacherSpec) -> Teacher:
    """The teacher, loaded and checked; raises TeacherError."""
    return SaliencyTeacher(spec) if spec.name == SALIENCY else Teacher(spec)
