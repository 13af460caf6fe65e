"""Teachers by a short name: the published one and two light ones, with the input that their weights like best.

For ImageNet-1k's 1,281,167 images, kind label, float16:

    tokenmix extract IMAGES maps --teacher nfnet_f6  --pretrained --amp bf16     18 x 18 tokens, 0.83 GB
    tokenmix extract IMAGES maps --teacher resnet101 --pretrained --amp bf16      7 x 7 tokens, 0.13 GB
    tokenmix extract IMAGES maps --teacher resnet26  --pretrained --amp bf16      7 x 7 tokens, 0.13 GB
    tokenmix extract IMAGES maps --teacher efficientnet_lite0 --kind cam         28 x 28 tokens, 2.0 GB; no hub needed

Sizes are h * w * 2 bytes per image; keys, labels and digests add less than 100. On one H200 with 15 decoding processes
(benchmarks/results/extract_gpu.json) the job takes NFNet-F6's maps at 143 images per second, ImageNet-1k in 2.5 hours,
and ResNet-101's at 1,959, in 11 minutes, which decoding decides.
`tokenmix plan` measures both on the machine at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from extract.settings import TeacherSpec
from extract.settings.worker import local_device
from extract.teacher.packaged import PACKAGES
from extract.teacher.protocol import Teacher
from extract.teacher.saliency import NAME as SALIENCY
from extract.teacher.saliency import SaliencyTeacher
from extract.teacher.timm_teacher import TimmTeacher

# Fields of TeacherSpec; what the user gives goes first.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    # TokenMix's teacher at its size for testing, as the released maps have it; timm's own is 448, that of training.
    "nfnet_f6": {"name": "dm_nfnet_f6", "input_size": (576, 576)},
    # The paper finds that light teachers cost almost nothing in accuracy.
    "resnet101": {"name": "resnet101"},
    "resnet26": {"name": "resnet26"},
}


def apply_preset(spec: TeacherSpec) -> TeacherSpec:
    """The specification with a preset's values for fields that are None; `name` becomes timm's.

    A teacher whose weights a package brings (packaged.py) keeps its name, and has them unless others are given.
    """
    if spec.name in PACKAGES and spec.checkpoint is None and spec.random_weights is None:
        return replace(spec, pretrained=True)
    preset = PRESETS.get(spec.name, {})
    return replace(
        spec, **{name: value for name, value in preset.items() if name == "name" or getattr(spec, name) is None}
    )


def on_this_machine(spec: TeacherSpec) -> TeacherSpec:
    """The specification with the presets applied and the device of this process."""
    return replace(apply_preset(spec), device=local_device(spec.device, torch.cuda.device_count()))


def make_teacher(spec: TeacherSpec) -> Teacher:
    """The teacher, loaded, checked and on its device, the presets applied. Raises TeacherError."""
    spec = on_this_machine(spec)
    return SaliencyTeacher(spec) if spec.name == SALIENCY else TimmTeacher(spec)
