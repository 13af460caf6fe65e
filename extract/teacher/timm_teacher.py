"""A teacher that is a timm classifier. How its maps are made is decided by its kind (kinds/)."""

from __future__ import annotations

from dataclasses import replace

import torch

from extract.errors import TeacherError
from extract.settings import TeacherSpec
from extract.teacher.kinds.registry import kind_class
from extract.teacher.model import build_model
from extract.teacher.preprocess import Preprocessing
from extract.teacher.protocol import Maps, Pending
from extract.teacher.weights import weights_digest
from store.spec import Json


class TimmTeacher:
    """A model in evaluation mode, its preprocessing and its kind; implements `Teacher` (protocol.py)."""

    def __init__(self, spec: TeacherSpec):
        """Build, load, check and move to the device, by default the CPU.

        Raises TeacherError, saying which of these failed.
        """
        make_kind = kind_class(spec)
        self.spec = spec = replace(spec, device=spec.device or "cpu")
        self.model = build_model(spec)
        self.preprocessing = Preprocessing.of_model(
            self.model, input_size=spec.input_size, crop_mode=spec.crop_mode, crop_pct=spec.crop_pct
        )
        self.digest = weights_digest(self.model)
        self.num_classes = int(self.model.num_classes)  # type: ignore[arg-type]
        self._kind = make_kind(self.model, spec, self.preprocessing.input_size)
        self.grid, self.depth = self._kind.grid, self._kind.depth
        self.device = _to_device(self.model, str(spec.device))
        self._mean = torch.tensor(self.preprocessing.mean, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(self.preprocessing.std, device=self.device).view(1, 3, 1, 1)

    def header(self) -> dict[str, Json]:
        """As in Teacher."""
        spec = self.spec
        return {
            "name": spec.name,
            "source": "pretrained" if spec.pretrained else "checkpoint" if spec.checkpoint else "random",
            "digest": self.digest,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "classes": self.num_classes,
            "model_args": dict(spec.model_args),
            "amp": spec.amp,
            "flip_average": spec.flip_average,
            **self._kind.header(),
        }

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 [B, 3, H, W] on any device -> the model's input, float32 on the teacher's."""
        images = pixels.to(self.device, non_blocking=True).float().div_(255).sub_(self._mean).div_(self._std)
        return images.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def start(self, pixels: torch.Tensor, outputs: torch.Tensor, dtype: torch.dtype = torch.float32) -> Pending:
        """As in Teacher."""
        images = self.normalise(pixels)
        outputs = outputs.to(self.device, non_blocking=True)
        maps = self._kind.maps(images, outputs, flipped=self.spec.flip_average)
        payload = {name: t.to(dtype) if t.is_floating_point() else t for name, t in maps.payload.items()}
        return Pending(Maps(payload, maps.prediction))

    def head(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """As in Teacher."""
        return self._kind.head()


def _to_device(model: torch.nn.Module, name: str) -> torch.device:
    """Move the model, convolutions in the faster memory format; TeacherError where the device cannot be used."""
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()  # "meta" takes a model, but has no numbers
        model.to(device).to(memory_format=torch.channels_last)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise TeacherError(f"--device {name}: cannot be used: {error}") from error
    return device
