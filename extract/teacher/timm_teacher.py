"""A teacher that is a timm classifier. How its maps are made is decided by its kind (kinds/)."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from extract.settings import TeacherSpec
from extract.teacher.heads import load_head, put_head
from extract.teacher.kinds.registry import kind_class
from extract.teacher.model import build_model, require_logits, to_device
from extract.teacher.preprocess import Normaliser, Preprocessing
from extract.teacher.protocol import Maps, Pending
from extract.teacher.tokens.centres import mirrored_mean
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
        self._own_head = None if spec.head is None else load_head(spec.head)
        if self._own_head is not None:
            self.model = put_head(self.model, self._own_head, self.digest, self.preprocessing.input_size)
        self.class_names = () if self._own_head is None else self._own_head.class_names
        self.num_classes = int(self.model.num_classes)  # type: ignore[arg-type]
        require_logits(self.model, spec, self.preprocessing.input_size)
        self._kind = make_kind(self.model, spec, self.preprocessing.input_size)
        self.grid, self.depth = self._kind.grid, self._kind.depth
        self.preprocessing = replace(
            self.preprocessing, input_size=self._kind.input_size, token_view=self._token_view()
        )
        self.device = to_device(self.model, str(spec.device))
        self.normalise = Normaliser(self.preprocessing, self.device)

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
            **({} if self._own_head is None else {"head": self._own_head.header()}),
            **({"token_centres": "assumed even"} if self._kind.token_view.problem else {}),
            **self._kind.header(),
        }

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

    def _token_view(self) -> tuple[float, float, float, float]:
        """The kind's, of the mean with the mirror image's map where that is made; a warning where it is a guess."""
        view, problem = self._kind.token_view
        if problem:
            logging.getLogger(__name__).warning(
                "--teacher %s: expected tokens that lie evenly on its input, but %s; maps are stored as if they did",
                self.spec.name,
                problem,
            )
        return mirrored_mean(view) if self.spec.flip_average else view
