"""A teacher without a model: OpenCV's static fine-grained saliency, class-agnostic (TokenMix, Table 6)."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from extract.errors import TeacherError
from extract.settings import TeacherSpec
from extract.teacher.preprocess import Preprocessing
from extract.teacher.protocol import NO_WEIGHTS, Maps, Pending
from store.spec import Json

NAME = "saliency"
TOKEN_PX = 16
INPUT_PX = 288  # 18 x 18 tokens
USED_OPTIONS = ("name", "kind", "input_size", "crop_mode", "crop_pct", "device", "flip_average")


class SaliencyTeacher:
    """Contrast to the surroundings over several scales (Montabone and Soto 2010), pooled over tokens of 16 px.

    The whole image, squashed to 288 px unless asked otherwise. Values in [0, 1]; no classes, so no prediction (-1).
    Implements `Teacher` (protocol.py).
    """

    def __init__(self, spec: TeacherSpec):
        """Raises TeacherError for another kind than `activation`, options that need a model, and without OpenCV."""
        _check(spec)
        self.spec = spec
        self._saliency, self.digest = _open_cv()
        self.device = torch.device("cpu")
        self.num_classes, self.depth = 0, 1
        self.class_names: tuple[str, ...] = ()
        self.preprocessing = Preprocessing(
            input_size=spec.input_size or (INPUT_PX, INPUT_PX),
            crop_mode=spec.crop_mode or "squash",
            crop_pct=spec.crop_pct or 1.0,
            interpolation="bicubic",
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
        )
        height, width = self.preprocessing.input_size
        if height % TOKEN_PX or width % TOKEN_PX:
            raise TeacherError(
                f"--input-size: expected multiples of {TOKEN_PX} px, a token's side for --teacher {NAME}, found "
                f"{height} x {width}; the default is {INPUT_PX}"
            )
        self.grid = height // TOKEN_PX, width // TOKEN_PX
        self._threads = ThreadPoolExecutor(os.cpu_count())

    def header(self) -> dict[str, Json]:
        """As in Teacher; the version of OpenCV stands for the weights."""
        return {
            "name": NAME,
            "source": NO_WEIGHTS,
            "digest": self.digest,
            "parameters": 0,
            "classes": 0,
            "route": f"OpenCV's StaticSaliencyFineGrained, mean of {TOKEN_PX} x {TOKEN_PX} px",
            "flip_average": self.spec.flip_average,
        }

    def start(self, pixels: torch.Tensor, outputs: torch.Tensor, dtype: torch.dtype = torch.float32) -> Pending:
        """As in Teacher; `outputs` are ignored."""
        bgr = pixels.flip(1).permute(0, 2, 3, 1).contiguous().numpy()
        maps = self._pooled(bgr)
        if self.spec.flip_average:
            maps = np.float32(0.5) * (maps + self._pooled(bgr[:, :, ::-1])[:, :, ::-1])
        no_prediction = torch.full((len(outputs),), -1)
        return Pending(Maps({"activation": torch.from_numpy(maps).to(dtype)}, no_prediction))

    def head(self) -> None:
        """None, as there are no logits."""

    def _pooled(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """BGR [B, H, W, 3] -> [B, h, w]."""
        h, w = self.grid
        maps = list(self._threads.map(lambda image: self._saliency.computeSaliency(image)[1], images))
        pooled: npt.NDArray[np.float32] = np.stack(maps).reshape(-1, h, TOKEN_PX, w, TOKEN_PX).mean((2, 4), np.float32)
        return pooled


def _check(spec: TeacherSpec) -> None:
    if spec.kind != "activation":
        raise TeacherError(
            f"--teacher {NAME}: expected --kind activation, for it knows no classes, found --kind {spec.kind}"
        )
    for field in fields(spec):
        value = getattr(spec, field.name)
        if field.name not in USED_OPTIONS and value and value != field.default:
            option = field.name.replace("_", "-")
            raise TeacherError(f"--teacher {NAME}: expected no options of a model, found --{option}; leave it out")


def _open_cv() -> tuple[Any, str]:
    """The algorithm, and the library's name and version."""
    try:
        cv2: Any = import_module("cv2")
        return cv2.saliency.StaticSaliencyFineGrained_create(), f"OpenCV {cv2.__version__}"
    except (ImportError, AttributeError) as error:  # AttributeError: an OpenCV without its extra modules
        raise TeacherError(
            f"--teacher {NAME}: expected OpenCV with its contributed modules, found {error}; "
            "pip install opencv-contrib-python-headless, in the place of any other OpenCV"
        ) from error
