"""A teacher's weights: read from a checkpoint, and the digest that tells two teachers apart."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import xxhash
from timm.models import load_state_dict

from extract.errors import TeacherError

_LOG = logging.getLogger(__name__)
# Names that torch's wrappers put between a module and its parts; models do not use them.
_WRAPPERS = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# The counters of batches are of no use in evaluation mode; the first versions of torch left them out, and so may files.
_COUNTER = "num_batches_tracked"

State = Mapping[str, torch.Tensor]


class _Found(NamedTuple):
    """The part of a checkpoint that the model may have come from: names as the model has them, but for `prefix`."""

    place: str  # keys into nested dicts, with points
    prefix: str
    state: State
    others: tuple[str, ...]  # names that do not begin with the prefix


def load_checkpoint(model: torch.nn.Module, path: Path) -> None:
    """Load a state dict, as weights only: no pickled code runs.

    It may lie in a dict (`state_dict`, `ema`), and its names may all begin with the name that the model had in a
    larger one (Lightning's `model.`, DDP's `module.`). Then one line says so, and what else the file has is left out;
    else it must fit exactly. Raises TeacherError for anything else, and where several parts fit.
    """
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
    found = _choose(wanted, given, path)
    broken = [name for name in wanted if found.state[name].isnan().any()]
    if broken:
        raise TeacherError(
            f"--checkpoint {path}: expected numbers, found NaN in {len(broken)} tensors, {broken[0]} first; "
            "the training run has diverged, take an earlier checkpoint"
        )
    if found.place or found.prefix:
        left_out = f"; left out {len(found.others)} others: {_listed(found.others)}" if found.others else ""
        _LOG.warning("--checkpoint %s: read %s%s", path, _spell(found), left_out)
    model.load_state_dict(found.state)


def _choose(wanted: State, given: Mapping[str, object], path: Path) -> _Found:
    """The one part of the file that has all names of the model, and nothing else under its prefix."""
    parts = [found for place, state in _states(given) for found in _prefixed(wanted, place, state)]
    if not parts:
        held = _listed([*map(repr, given)])
        raise TeacherError(
            f"--checkpoint {path}: expected the weights of a model, found no named tensors, only {held or 'nothing'}; "
            "give the file that the training run saved the model to, and the --teacher that it trained"
        )
    problems = [_misfits(wanted, part.state) for part in parts]
    fitting = [part for part, problem in zip(parts, problems, strict=True) if not problem]
    whole = [part for part in fitting if not (part.place or part.prefix or part.others)]
    if len(whole or fitting) == 1:
        return (whole or fitting)[0]
    if fitting:
        raise TeacherError(
            f"--checkpoint {path}: expected one model that fits, found {len(fitting)}: "
            f"{', '.join(map(_spell, fitting))}; save the one that you want to a file of its own"
        )
    nearest = max(range(len(parts)), key=lambda i: len(wanted.keys() & parts[i].state.keys()))
    where = f" ({_spell(parts[nearest])})" if parts[nearest].place or parts[nearest].prefix else ""
    raise TeacherError(
        f"--checkpoint {path}: does not fit the model{where}: {'; '.join(problems[nearest])}. "
        "Check --teacher, --num-classes and --model-arg against the training run"
    )


def _states(given: object, place: str = "") -> Iterator[tuple[str, State]]:
    """Every dict of tensors by its place in dicts of dicts, the outermost first."""
    if not isinstance(given, Mapping):
        return
    named = {name: value for name, value in given.items() if isinstance(name, str)}  # an optimizer's have numbers
    state = {_WRAPPERS.sub("", name): value for name, value in named.items() if isinstance(value, torch.Tensor)}
    if state:
        yield place, state
    for name, inner in named.items():
        yield from _states(inner, f"{place}.{name}" if place else name)


def _prefixed(wanted: State, place: str, state: State) -> Iterator[_Found]:
    """The state as it is, and under every prefix that the model's first tensor has in it."""
    first = next(iter(wanted))
    for prefix in ("", *(name.removesuffix(first) for name in state if name.endswith(f".{first}"))):
        inner = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        inner |= {name: wanted[name] for name in wanted if name.endswith(_COUNTER) and name not in inner}
        yield _Found(place, prefix, inner, tuple(name for name in state if not name.startswith(prefix)))


def _spell(found: _Found) -> str:
    inside = f"its {found.place!r}" if found.place else "its names"
    return inside + (f" without the prefix {found.prefix!r}" if found.prefix else "")


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"


def _misfits(wanted: State, given: State) -> list[str]:
    missing = [name for name in wanted if name not in given]
    unexpected = [name for name in given if name not in wanted]
    shapes = [
        f"{name} expected {tuple(wanted[name].shape)} found {tuple(given[name].shape)}"
        for name in wanted
        if name in given and wanted[name].shape != given[name].shape
    ]
    named = (("missing", missing), ("not in the model", unexpected), ("of another shape", shapes))
    return [f"{len(names)} {what} ({_listed(names)})" for what, names in named if names]


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
