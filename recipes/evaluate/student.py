"""Trained students as the figures want them: options of the command line, weights, and the images as they see them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

import recipes.small_students  # noqa: F401 -- known to timm by this
from extract.errors import ImagesError
from extract.images import list_images
from extract.images.classes import match_classes
from recipes.train.settings import TrainingError
from recipes.train.students import model_argument
from store import StoreError

Command = TypeVar("Command", bound=Callable[..., Any])

OPTIONS = (
    click.option("--model", "name", default="deit_small_patch16_224", show_default=True, help="timm's name."),
    click.option(
        "--checkpoint", "checkpoints", multiple=True, type=click.Path(exists=True, path_type=Path),
        help="Weights; repeatable, one line or row each, named by the file. Default: timm's own.",
    ),
    click.option("--model-arg", "model_args", multiple=True, help="NAME=VALUE for timm; repeatable."),
    click.option("--num-classes", type=int, default=1000, show_default=True),
    click.option("--input-size", type=int, help="Pixels; default: the model's."),
    click.option("--crop-pct", type=float, help="Default: the model's."),
    click.option("--crop-mode", type=click.Choice(["center", "squash", "border"]), help="Default: the model's."),
)  # fmt: skip


class Student(NamedTuple):
    """`label`: what a figure calls it; `transform`: timm's for the test, from a PIL image to float32 [3, H, W]."""

    label: str
    model: Any
    transform: Any
    device: torch.device


def student_options(command: Command) -> Command:
    """The options that `load_students` takes, for a command."""
    return reduce(lambda decorated, option: option(decorated), reversed(OPTIONS), command)


def load_students(
    name: str, checkpoints: Sequence[Path], model_args: Sequence[str], num_classes: int,
    input_size: int | None, crop_pct: float | None, crop_mode: str | None,
) -> list[Student]:  # fmt: skip
    """One student for each checkpoint, or timm's own weights; UsageError for arguments that do not go together."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        options = dict(model_argument(text) for text in model_args)
    except TrainingError as error:
        raise click.UsageError(str(error)) from error
    given = {"input_size": (3, input_size, input_size) if input_size else None, "crop_pct": crop_pct}
    students = []
    for checkpoint in checkpoints or (None,):
        weights: dict[str, Any] = {"checkpoint_path": str(checkpoint)} if checkpoint else {"pretrained": True}
        try:
            model = timm.create_model(name, num_classes=num_classes, **weights, **options).to(device).eval()
        except (RuntimeError, TypeError, ValueError, AssertionError) as error:
            raise click.UsageError(
                f"--model {name}: expected a network of {num_classes} classes, with {options or 'no arguments'}, that "
                f"takes the weights of {checkpoint or 'timm'}, found {error}; give --model, --model-arg and "
                "--num-classes as in the training"
            ) from error
        chosen = {key: value for key, value in (given | {"crop_mode": crop_mode}).items() if value}
        transform = create_transform(**resolve_data_config(chosen, model=model), is_training=False)
        students.append(Student(_label(checkpoint, checkpoints) if checkpoint else name, model, transform, device))
    return students


def tokens_per_side(students: Sequence[Student], asked: int | None) -> int:
    """`asked`, or the students' own patches, or patches of 16 px; UsageError where the images cannot be cut so."""
    height, width = students[0].transform(Image.new("RGB", (32, 32))).shape[1:]
    own = getattr(getattr(students[0].model, "patch_embed", None), "grid_size", None)
    side = asked or (own[0] if own else height // 16)
    if height % side or width % side:
        raise click.UsageError(f"--grid {side}: expected a divisor of the input's {height} x {width} px")
    return int(side)


def outputs_of(images: Path, num_classes: int, class_map: Path | None) -> torch.Tensor:
    """Which of a student's outputs each class folder is [K]: as `tokenmix extract` matches them. Raises ImagesError."""
    return torch.tensor(match_classes(list_images(images).class_names, num_classes, class_map).outputs)


@contextmanager
def mistakes_as_messages() -> Iterator[None]:
    """What a user can mend becomes click's message."""
    try:
        yield
    except (ImagesError, StoreError, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error


def _label(checkpoint: Path, all_of_them: Sequence[Path]) -> str:
    """The file's name, or that of its folder where several files have the same one."""
    alike = sum(other.stem == checkpoint.stem for other in all_of_them)
    return checkpoint.resolve().parent.name if alike > 1 else checkpoint.stem
