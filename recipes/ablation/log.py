"""What runs leave behind: FOLDER/runs/EXPERIMENT/STUDENT/ARM-SEED.json, each whole or not there.

EXPERIMENT is a digest of all that the runs of one table have in common: images, schedule, code and the versions of what
computes. Other settings or other code are another folder beside it, so that nothing is mixed up.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch

from recipes.ablation.arms import Arm
from recipes.ablation.data import Data
from recipes.ablation.training import Schedule, Student
from store import read_header

Record = dict[str, Any]
ROOT: Final = Path(__file__).parents[2]
# What decides a run. Images and maps have digests of their own, and an arm's settings stand in its records.
CODE: Final = (
    "recipes/ablation/training.py", "recipes/small_students.py", "recipes/train/data.py", "recipes/train/students.py",
    "tokenmix_loader", "store",
)  # fmt: skip
SHARED_FILE: Final = "experiment.json"


class AblationError(ValueError):
    """Records that do not go together: what was expected, what was found, what to do."""


@dataclass(frozen=True)
class Task:
    """One run."""

    student: Student
    name: str
    arm: Arm
    seed: int

    def settings(self, data: Data) -> dict[str, Any]:
        """All that this arm alone decides, as JSON."""
        store = read_header(data.store(self.arm.store)).content_digest
        mixing = self.arm.mixing_on(self.student.grid)
        found = asdict(self.arm) | {
            "mixing": mixing,
            "grid": self.student.grid,
            "lr": self.student.lr,
            "store_digest": store,
        }
        return json.loads(json.dumps(found))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Experiment:
    """Runs that may stand in one table; `shared`: what they have in common, as JSON."""

    folder: Path
    shared: Mapping[str, Any]

    def path(self, task: Task) -> Path:
        """Of a run's record."""
        return self.folder / task.student.name / f"{task.name}-{task.seed}.json"

    def finished(self, task: Task, data: Data) -> bool:
        """Whether the run is there. Raises AblationError where it was made with other settings of the arm."""
        path = self.path(task)
        if not path.exists():
            return False
        found, expected = read_record(path)["settings"], task.settings(data)
        for name in [*expected, *(found.keys() - expected.keys())]:
            if name != "words" and found.get(name) != expected.get(name):
                raise AblationError(
                    f"{path}: {name}: expected {expected.get(name)!r}, found {found.get(name)!r}, of an arm that was "
                    f"changed since; move the {task.name}-*.json there away to run it anew, or rename the arm"
                )
        return True

    def records(self) -> list[Record]:
        """All finished runs, in the order of their files' names."""
        return [read_record(path) for path in sorted(self.folder.glob("*/*.json"))]


def open_experiment(
    folder: Path, data: Data, schedule: Schedule, chosen: Mapping[str, Any], device: str = "cpu"
) -> Experiment:
    """The one of these settings and this code; `chosen` describes the data."""
    shared = {
        **chosen, **asdict(schedule), "device": device_name(device), "data": data.digest(), **_code(),
    }  # fmt: skip
    digest = hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()
    experiment = Experiment(folder / "runs" / digest[:12], shared)
    write_json(experiment.folder / SHARED_FILE, shared)
    return experiment


def _code() -> dict[str, Any]:
    libraries = ("torch", "torchvision", "timm", "numpy", "pillow")
    return {"code": code_digest(), "versions": {name: version(name) for name in libraries}}


def find_experiment(folder: Path, name: str | None) -> Experiment:
    """The one of this name; else the only one, or of several the only one of code and versions as they are now.

    Raises AblationError where that is none, or several.
    """
    found = {path.parent.name: path.parent for path in sorted((folder / "runs").glob(f"*/{SHARED_FILE}"))}
    if name is None:
        now = _code() if len(found) > 1 else {}
        fitting = [each for each in found if now.items() <= read_record(found[each] / SHARED_FILE).items()]
        name = fitting[0] if len(fitting) == 1 else None
    if name not in found:
        counts = ", ".join(f"{each} ({len(list(path.glob('*/*.json')))} runs)" for each, path in found.items())
        raise AblationError(
            f"{folder}: expected one experiment, or the name of one, found {name or 'no name'} and {counts or 'none'}; "
            "runs of other settings or other code are never in one table: choose with --experiment, or run one first"
        )
    return Experiment(found[name], read_record(found[name] / SHARED_FILE))


def read_record(path: Path) -> Record:
    """A JSON object. Raises AblationError for anything else."""
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise AblationError(f"{path}: expected a run's record, found no JSON ({error}); delete it") from error
    if not isinstance(found, dict):
        raise AblationError(f"{path}: expected a run's record, found {type(found).__name__}; delete it")
    return found


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """By rename, so that the file is whole or not there; numbers that JSON lacks are a ValueError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    unfinished.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    unfinished.replace(path)


def machine() -> dict[str, Any]:
    """Where a run was made, for people."""
    return {
        "platform": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads(),
    }  # fmt: skip


def device_name(device: str) -> str:
    """ "cpu", or what the GPU is called."""
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else device


def code_digest(root: Path = ROOT, parts: Iterable[str] = CODE) -> str:
    """SHA-256 over the sources that decide a run; comments and layout do not count."""
    found = hashlib.sha256()
    for part in parts:
        files = [root / part] if part.endswith(".py") else sorted((root / part).rglob("*.py"))
        for path in files:
            source = ast.unparse(ast.parse(path.read_text()))
            found.update(path.relative_to(root).as_posix().encode() + b"\0" + source.encode() + b"\0")
    return found.hexdigest()
