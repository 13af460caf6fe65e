"""What a user chooses about an extraction: plain data without heavy imports, as the command line builds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from extract.settings.check import Checked
from extract.settings.worker import Worker

# What `--kind` takes; a test holds it against the kinds that the store knows and those that a teacher can make.
KINDS = ("label", "topk", "cam", "activation", "features")
# Teachers that are more than a name of timm's, the published one first.
NAMED_TEACHERS = (
    "nfnet_f6", "resnet101", "resnet26", "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "saliency",
)  # fmt: skip
DEFAULT_SHARD_ROWS = 4096


@dataclass(frozen=True)
class TeacherSpec(Checked):
    """Which teacher, with which weights and input, and what to make of its tokens; None: the model's own.

    Exactly one of `pretrained`, `checkpoint` and `random_weights` (a seed, for trying out) for a timm model.
    """

    name: str
    pretrained: bool = False
    checkpoint: Path | None = None
    random_weights: int | None = None
    num_classes: int | None = None
    head: Path | None = None  # of `fit_head`, in the place of the model's own
    model_args: Mapping[str, Any] = field(default_factory=dict)
    input_size: tuple[int, int] | None = None  # height, width in px
    crop_mode: str | None = None
    crop_pct: float | None = None
    device: str | None = None  # None: a GPU if there is one, of several that of this process; else the CPU
    amp: str = "none"
    compile: bool = False
    kind: str = "label"
    top_k: int | None = None  # kind topk; None: 5
    cam_stage: str | None = None  # kind cam: modules, with commas between
    scales: tuple[float, ...] | None = None  # kind cam: of the input's size; None: 1
    cam_grid: int | None = None  # kind cam: at most so many cells along the longer side; None: 28
    spread: bool | None = None  # kind cam: over tokens that look alike; None: yes
    rivals: int | None = None  # kind cam: so many classes contest the label's evidence; None: 3
    class_token: bool = False
    flip_average: bool = False


@dataclass(frozen=True)
class JobOptions(Checked):
    """How to run; of these `dtype`, `shard_rows` and the keys are part of what is stored."""

    dtype: str = "float16"
    shard_rows: int = DEFAULT_SHARD_ROWS
    batch_size: int = 32
    decoding_processes: int = 4
    worker: Worker = field(default_factory=Worker)
    extend: bool = False  # add shards for images that are not in the store
    max_errors: int | None = None  # unreadable images to accept; None: 0.1 % of the rows, rounded up
    min_top1: float | None = None  # the share of right predictions below which the job has failed; None: any
    input_key: str | None = None  # timm's: the column of images, or their suffixes, as jpg;png
    target_key: str | None = None  # timm's: the column, or the field of .json, that has the labels


@dataclass(frozen=True)
class FitOptions(Checked):
    """How a head of one's own is fitted."""

    class_weights: str = "balanced"  # every class counts the same; none: every image
    batch_size: int = 32
    decoding_processes: int = 4
    max_errors: int | None = None  # this and the next two: as in JobOptions
    input_key: str | None = None
    target_key: str | None = None


@dataclass(frozen=True)
class ImportOptions(Checked):
    """How published maps are stored; None: as the format's files have it."""

    view: str | None = None
    crop_pct: float = 1.0  # share of the (shorter) side that the teacher saw
    dtype: str | None = None
    shard_rows: int = DEFAULT_SHARD_ROWS
    worker: Worker = field(default_factory=Worker)
    max_errors: int | None = None  # this and the next two: as in JobOptions
    input_key: str | None = None
    target_key: str | None = None
