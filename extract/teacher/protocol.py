"""What the job and the audit need of a teacher. timm_teacher.py and saliency.py implement it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from extract.settings import TeacherSpec
from extract.teacher.preprocess import Preprocessing
from store import Header
from store.spec import Json

NO_WEIGHTS = "no"  # the header's `source` of a teacher that has none


class Maps(NamedTuple):
    """The maps of B images."""

    payload: dict[str, torch.Tensor]  # dataset of the store -> [B, ..., h, w]; see docs/format.md
    prediction: torch.Tensor  # [B]: the output with the largest logit; -1 of a teacher without classes


class Pending:
    """Maps on their way from the device to the CPU."""

    def __init__(self, maps: Maps):
        """Start the copies; on the CPU there is nothing to do."""
        self._maps, self._arrived = maps, None
        if maps.prediction.is_cuda:
            self._maps = Maps({name: _to_pinned(t) for name, t in maps.payload.items()}, _to_pinned(maps.prediction))
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def result(self) -> Maps:
        """Wait for the copies."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._maps


def _to_pinned(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


class Teacher(Protocol):
    """A teacher, loaded, checked and on its device."""

    spec: TeacherSpec
    preprocessing: Preprocessing
    grid: tuple[int, int]  # h, w of its maps
    depth: int  # planes of a row: k of kind topk, C of kind features, else 1
    num_classes: int  # outputs; 0 of a teacher without classes
    class_names: tuple[str, ...]  # of the outputs, where a head of one's own names them; else empty
    device: torch.device

    def start(self, pixels: torch.Tensor, outputs: torch.Tensor, dtype: torch.dtype = torch.float32) -> Pending:
        """Begin to compute maps, and do not wait for the device.

        `pixels`: uint8 [B, 3, H, W] of `preprocessing.input_size`. `outputs`: int64 [B], the output of the teacher to
        map in each image, which is that of the image's class; kinds that show no single class ignore it. Maps of
        real numbers come as `dtype`.
        """

    def head(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """float32 weight [K, C] and bias [K] that turn stored features into logits; None for other kinds."""

    def header(self) -> dict[str, Json]:
        """The `teacher` field of the store's header: everything about the teacher that decides the content.

        What is named like a field of `TeacherSpec` is read back by `spec_from_header`.
        """


def spec_from_header(
    header: Header, *, checkpoint: Path | None = None, head: Path | None = None, device: str | None = None
) -> TeacherSpec:
    """The specification of a teacher whose `header()` and preprocessing are those of the store.

    `checkpoint`: the file of its weights; None: the pretrained ones. `head`: the file of its head, where it has one of
    its own. The header must be that of an extraction, not of imported maps.
    """
    stored = {**header.preprocessing, **header.teacher}
    given: dict[str, Any] = {field.name: stored[field.name] for field in fields(TeacherSpec) if field.name in stored}
    given |= {name: tuple(given[name]) for name in ("input_size", "scales") if name in given}
    if header.kind == "cam":  # whose header names only what there is; in the specification None is the default
        given = {"spread": False, "rivals": 0} | given
    if stored["source"] != NO_WEIGHTS:
        own_head: Any = stored.get("head")
        classes = own_head["backbone_classes"] if own_head else stored["classes"]
        given |= {"checkpoint": checkpoint, "pretrained": checkpoint is None, "num_classes": classes, "head": head}
    return TeacherSpec(**given, kind=header.kind, device=device)
