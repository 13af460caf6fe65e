"""Kinds that are made of the tokens before the pooling: what they need of a model."""

from __future__ import annotations

import difflib
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from extract.errors import TeacherError
from extract.settings import TeacherSpec
from extract.teacher.kinds.base import Kind, top1_of
from extract.teacher.model import autocast
from extract.teacher.protocol import Maps
from extract.teacher.tokens.centres import measure_token_view
from extract.teacher.tokens.routes import FORMS, Refusal, Route, choose_route
from extract.teacher.tokens.token_sources import HeadSource
from extract.teacher.weights import first_line
from store.spec import Json

# What to suggest to a user whose teacher is refused; all pass (docs/teachers.md).
SUGGESTED = (
    "resnet26", "resnet50", "resnet101", "resnext50_32x4d", "seresnet50", "regnety_032", "dm_nfnet_f0", "dm_nfnet_f6",
    "efficientnet_b0", "mobilenetv3_large_100", "densenet121", "convnext_tiny", "convnextv2_tiny", "maxvit_tiny_tf_224",
    "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "vit_medium_patch16_gap_256", "mixer_b16_224",
    "beit_base_patch16_224", "eva02_tiny_patch14_336", "hiera_tiny_224", "caformer_s18", "inception_v3",
)  # fmt: skip


class TokenKind(Kind):
    """Needs a route from tokens to logits (routes.py), of one of these forms."""

    forms: ClassVar[tuple[str, ...]] = FORMS
    needs: ClassVar[str] = "a route from tokens to logits"  # for people, what these forms have in common

    def __init__(self, model: torch.nn.Module, spec: TeacherSpec, input_size: tuple[int, int]):
        """As in Kind; compiles the way to the tokens, where asked to."""
        self.spec = spec
        self.route = _find_route(model, spec, input_size)
        self.grid, self.input_size = self.route.grid, input_size
        if self.route.form not in self.forms:
            raise TeacherError(f"--kind {self.name}: expected {self.needs}, found {self.route}; use --kind label")
        self.token_view = measure_token_view(self.route.tokens, self.grid, input_size)
        if spec.compile:
            _compile(model, self.route, spec.device)

    @abstractmethod
    def make(self, views: Sequence[torch.Tensor], outputs: torch.Tensor) -> Maps:
        """Tokens [B, h, w, C] of the images and, if asked for, of the mirror images; outputs [B] -> maps."""

    def maps(self, images: torch.Tensor, outputs: torch.Tensor, *, flipped: bool) -> Maps:
        """As in Kind."""
        views = [self._tokens(images)]
        if flipped:
            views.append(self._tokens(images.flip(3)).flip(2))
        return self.make(views, outputs)

    def header(self) -> dict[str, Json]:
        """As in Kind; `class_token`: whether the route needs it, not whether it was asked for."""
        return {"route": str(self.route), "class_token": self.route.form == "surrogate"}

    def predictions(self, views: Sequence[torch.Tensor]) -> torch.Tensor:
        """The largest output [B]."""
        return top1_of([self.route.image_logits(tokens) for tokens in views])

    def _tokens(self, images: torch.Tensor) -> torch.Tensor:
        with autocast(self.spec):
            return self.route.tokens(images).float()


def _find_route(model: torch.nn.Module, spec: TeacherSpec, input_size: tuple[int, int]) -> Route:
    """The model's route; TeacherError with the reason, and the nearest name that fits, where there is none."""
    try:
        route = choose_route(model, input_size, class_token=spec.class_token)
    except (AttributeError, AssertionError, RuntimeError, NotImplementedError) as error:
        raise TeacherError(f"--teacher {spec.name}: cannot run at {input_size}: {first_line(error)}") from error
    if isinstance(route, Refusal):
        near = difflib.get_close_matches(spec.name, SUGGESTED, n=1, cutoff=0)[0]
        hint = f"the nearest that fits is {near}" + ("" if spec.class_token else "; --class-token may do, inexactly")
        raise TeacherError(f"--teacher {spec.name}: expected {route.expected}, found {route.found}; {hint}")
    return route


def _compile(model: Any, route: Route, device: str | None) -> None:
    """Compile what gives the tokens; a first try on a tiny function tells whether there is a compiler."""
    if not isinstance(route.source, HeadSource):
        raise TeacherError(f"--compile: expected tokens from forward_features, found {route}; leave it out")
    try:
        torch.compile(torch.sin)(torch.ones(2, device=device))
    except Exception as error:
        reason = first_line(error.__cause__ or error)
        raise TeacherError(
            f"--compile: expected a compiler that torch can use, found {reason}; install one, or leave it out"
        ) from error
    model.forward_features = torch.compile(model.forward_features)
