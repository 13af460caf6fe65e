"""A teacher's weights: read from a checkpoint, and the digest that tells two teachers apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import xxhash
from timm.models import load_state_dict

from extract.errors import TeacherError


def load_checkpoint(model: torch.nn.Module, path: Path) -> None:
    """Load a state dict that fits exactly, as weights only: no pickled code runs. Raises TeacherError."""
    if not path.is_file():
        raise TeacherError(f"--checkpoint {path}: expected a .safetensors or .pth file, found nothing there")
    try:
        given = load_state_dict(str(path), weights_only=True)
    except Exception as error:
        reason = first_line(error).partition(" No automatic")[0]  # torch goes on to advise running the pickle
        raise TeacherError(
            f"--checkpoint {path}: expected a state dict of plain tensors, found: {reason}; re-save it as safetensors"
        ) from error
    wanted = model.state_dict()
    problems = _misfits(wanted, given)
    if problems:
        raise TeacherError(
            f"--checkpoint {path}: does not fit the model: {'; '.join(problems)}. "
            "Check --teacher, --num-classes and --model-arg against the training run"
        )
    broken = [name for name, tensor in given.items() if tensor.isnan().any()]
    if broken:
        raise TeacherError(
            f"--checkpoint {path}: expected numbers, found NaN in {len(broken)} tensors, {broken[0]} first; "
            "the training run has diverged, take an earlier checkpoint"
        )
    model.load_state_dict(given)


def _misfits(wanted: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> list[str]:
    def listed(what: str, names: Sequence[str]) -> str:
        return f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"

    missing = [name for name in wanted if name not in given]
    unexpected = [name for name in given if name not in wanted]
    shapes = [
        f"{name} expected {tuple(wanted[name].shape)} found {tuple(given[name].shape)}"
        for name in wanted
        if name in given and wanted[name].shape != given[name].shape
    ]
    named = (("missing", missing), ("not in the model", unexpected), ("of another shape", shapes))
    return [listed(what, names) for what, names in named if names]


def weights_digest(model: torch.nn.Module) -> str:
    """xxh3_128 over names and values of all parameters and buffers: what makes two teachers the same."""
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def first_line(error: BaseException) -> str:
    """Another library's error, short enough to be part of a message of ours."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"
