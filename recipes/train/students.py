"""Any of timm's networks as a student: its input, the grid of its masks, and logits of its tokens."""

from __future__ import annotations

import ast
import difflib
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from torch import nn

from recipes.train.settings import Settings, TrainingError
from tokenmix_loader.batch import Grid

DEIT_PATCH = 16


@dataclass(frozen=True)
class Student:
    """`network` returns logits [B, K], with `by_token` also those of the tokens [B, T, K]; `model` is timm's own."""

    model: Any
    network: nn.Module
    data: dict[str, Any]  # what timm's create_transform has to know
    grid: Grid
    words: str


def create_student(settings: Settings, num_classes: int) -> Student:
    """A student with K outputs, untrained. Raises TrainingError."""
    given = dict(model_argument(text) for text in settings.model_arg)
    if "num_classes" in given:
        raise TrainingError("--model-arg: expected what only the network knows, found num_classes; give --num-classes")
    model = _create(settings, num_classes, given)
    side = settings.img_size
    data = resolve_data_config({"input_size": (3, side, side) if side else None}, model=model)
    size: tuple[int, int] = data["input_size"][1:]
    grid, why = mask_grid(model, size, settings)
    network: nn.Module = WithTokens(model, grid) if settings.by_token else model
    if settings.by_token:
        _check_tokens(network, settings.model, size)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    words = (
        f"{settings.model}, {millions:.1f} M parameters, {num_classes} classes, {size[0]} x {size[1]} px; "
        f"masks of {grid[0]} x {grid[1]} tokens, {why}"
    )
    return Student(model, network, data, grid, words)


def mask_grid(model: Any, size: tuple[int, int], settings: Settings) -> tuple[Grid, str]:
    """Tokens (gh, gw) of a mask over images of `size` (height, width), and where they come from.

    A plain transformer or Mixer has tokens of one size, and masks are made of those. Networks of several stages have no
    tokens of their own that suit: 4 px at the beginning of Swin or PVT are texture, 32 px at the end leave 7 x 7, too
    few for blocks. They get DeiT's 16 px, which all of them have at some stage, so that masks, and the paper's settings
    for them, mean the same for all students. TokenLabeling alone needs the tokens of the end, which it classifies.
    """
    if settings.grid:
        grid, why = (settings.grid, settings.grid), "as --grid says"
        if size[0] % settings.grid or size[1] % settings.grid:
            raise TrainingError(
                f"--grid: expected a divisor of the images' {size[0]} x {size[1]} px, found {settings.grid}; choose "
                "another one, or another --img-size"
            )
        return grid, why
    stages = sorted({int(stage["reduction"]) for stage in getattr(model, "feature_info", ())})
    if not stages:
        raise TrainingError(f"--model {settings.model}: expected feature_info, which tells its tokens; give --grid")
    patch = stages[-1] if settings.by_token else max((s for s in stages if s <= DEIT_PATCH), default=stages[0])
    if size[0] % patch or size[1] % patch:
        raise TrainingError(
            f"--img-size: expected a multiple of {patch} px, the tokens of {settings.model}, found "
            f"{size[0]} x {size[1]} px; choose another one, or give --grid"
        )
    return (size[0] // patch, size[1] // patch), _reason(stages, patch, by_token=settings.by_token)


def _reason(stages: list[int], patch: int, *, by_token: bool) -> str:
    if len(stages) == 1:
        return f"its own, of {patch} px"
    listed = ", ".join(map(str, stages))
    chosen = "the last, which it classifies" if by_token else f"of {patch} px, as near as it has to DeiT's"
    return f"{chosen} (its stages have {listed} px)"


def _create(settings: Settings, num_classes: int, given: dict[str, Any]) -> Any:
    if not timm.is_model(settings.model):
        begun = timm.list_models(f"{settings.model}*")
        near = ", ".join((begun or difflib.get_close_matches(settings.model, timm.list_models(), cutoff=0.5))[:3])
        raise TrainingError(
            f"--model: expected a name that timm {timm.__version__} knows, found {settings.model!r}; "
            f"take another one{near and f', such as {near}'}"
        )
    options = {"num_classes": num_classes, **given}
    if settings.drop_path:
        options.setdefault("drop_path_rate", settings.drop_path)
    try:
        config = timm.get_pretrained_cfg(settings.model)
        if settings.img_size and config and config.fixed_input_size:  # else any size goes, and none is an argument
            options.setdefault("img_size", settings.img_size)
        return timm.create_model(settings.model, **options)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise TrainingError(
            f"--model {settings.model}: expected a network that takes {options}, found {error}; change --model-arg, "
            "--img-size or, where it knows no such thing, --drop-path 0"
        ) from error


def model_argument(text: str) -> tuple[str, Any]:
    """Name and value of NAME=VALUE, where the value is a Python literal or a word. Raises TrainingError."""
    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals):
        raise TrainingError(f"--model-arg: expected NAME=VALUE, found {text!r}; such as depth=6 or depths=(1,1,1,1)")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


class WithTokens(nn.Module):
    """Logits [B, K] of a network, and [B, T, K] of its tokens through the same classifier, in row order."""

    def __init__(self, model: Any, grid: Grid) -> None:
        super().__init__()
        self.model, self.tokens = model, grid[0] * grid[1]

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Class logits and token logits."""
        features = self.model.forward_features(images)
        return self.model.forward_head(features), self._token_logits(features)

    def _token_logits(self, features: torch.Tensor) -> torch.Tensor:
        if features.ndim == 3:  # class tokens come first
            norm = getattr(self.model, "fc_norm", None) or nn.Identity()
            logits: torch.Tensor = self.model.get_classifier()(norm(features[:, -self.tokens :]))
            return logits
        # Every token as a map of one cell, through what follows the maps; timm has channels second, but for Swin & Co.
        last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"
        cells = features.flatten(1, 2) if last else features.flatten(2).transpose(1, 2)
        alone = cells.flatten(0, 1)
        head = self.model.forward_head(alone[:, None, None] if last else alone[:, :, None, None])
        return head.unflatten(0, cells.shape[:2])  # type: ignore[no-any-return]


def _check_tokens(network: nn.Module, name: str, size: tuple[int, int]) -> None:
    """Two images on trial: whether each of the mask's tokens has logits."""
    expected = "a network whose tokens one classifier can classify, as many as its masks have"
    try:
        with torch.no_grad():
            logits, by_token = network.eval()(torch.zeros(2, 3, *size))
    except (TypeError, AttributeError, RuntimeError) as error:
        raise TrainingError(f"tokenlabeling: {name}: expected {expected}, found {error}; take another one") from error
    if by_token.shape != (2, network.tokens, logits.shape[1]):
        raise TrainingError(
            f"tokenlabeling: {name}: expected {expected}, {network.tokens}, found {by_token.shape[1]}; leave --grid out"
        )
