"""What a run leaves in its folder, each file whole or not there: last.pt, best.pt, log.jsonl, settings.json."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import torch

from recipes.train.settings import Settings, TrainingError

Row = dict[str, float | None]
LAST, BEST = "last.pt", "best.pt"  # as timm loads them: create_model(name, checkpoint_path=...)


def identity(settings: Settings, maps: str, outputs: list[int], processes: int) -> dict[str, Any]:
    """All that decides the weights, for a run to be compared with; `maps`: digest of the store, images included."""
    return {**asdict(settings), "maps": maps, "outputs": outputs, "processes": processes}


def load_last(folder: Path, expected: Mapping[str, Any]) -> dict[str, Any] | None:
    """The state of the last whole epoch, or None for a new run. TrainingError names the first setting that differs."""
    path = folder / LAST
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        stored = state["settings"]
    except (RuntimeError, UnpicklingError, EOFError, LookupError, TypeError) as error:
        raise TrainingError(
            f"{path}: expected what an earlier call of this command left, found a file that cannot be read as such "
            f"({error}); move it away, or choose another --out"
        ) from error
    for name in [*expected, *(stored.keys() - expected.keys())]:
        if stored.get(name) != expected.get(name):
            raise TrainingError(
                f"{path}: {name}: expected {stored.get(name)!r}, with which this run was begun, found "
                f"{expected.get(name)!r}; say it as before to go on, or begin anew in another --out"
            )
    return state


def save_state(folder: Path, state: Mapping[str, Any], best: Mapping[str, torch.Tensor] | None) -> None:
    """First the best weights, if this epoch's are, then the state: a break in between costs one epoch."""
    if best is not None:
        row = state["history"][-1]
        kept = {"arch": state["arch"], "epoch": state["epoch"], "top1": best_of(row), "state_dict": best}
        _write(folder / BEST, lambda file: torch.save(kept, file))
    _write(folder / LAST, lambda file: torch.save(dict(state), file))


def write_log(folder: Path, history: list[Row]) -> None:
    """A line of JSON per epoch."""
    text = "".join(json.dumps(row) + "\n" for row in history)
    _write(folder / "log.jsonl", lambda file: file.write(text.encode()))


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """For people, with the versions of what computes."""
    versions = {name: version(name) for name in ("torch", "timm", "numpy")}
    text = json.dumps({**settings, "versions": versions}, indent=1) + "\n"
    _write(folder / "settings.json", lambda file: file.write(text.encode()))


def best_of(row: Row) -> float | None:
    """Top-1 of an epoch, that of the averaged weights where it is higher; None without validation."""
    return max((found for found in (row["top1"], row["ema_top1"]) if found is not None), default=None)


def _write(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    unfinished = path.with_name(f"{path.name}.tmp")
    with unfinished.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
