"""What maps of a head fitted for own classes are worth, beside those of the head that the teacher was trained with.

    python -m benchmarks.evidence.own_classes FOLDER --train 1500   # writes benchmarks/results/own_classes.json

Ten ImageNet classes of cut-outs under EfficientNet-lite0, and context digits under their teacher. The classes get names
that no teacher knows, `tokenmix fit-head`'s function fits a head on training images, and both heads make maps of the
same test images. Error of one image's score as a share of the area target's, DeiT's random crop, block masks, as in
benchmarks.evidence; 95 % intervals of the difference over images (bootstrap). Needs Debian's
tuxpaint-stamps-default, see recipes/cut_outs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import extract
from benchmarks.evidence.scores import errors_of, interval
from benchmarks.fidelity import pixel_mask
from benchmarks.read import machine
from extract import FitOptions, JobOptions, TeacherSpec
from recipes.context_digits import generate as digits
from recipes.cut_outs import generate as cut_outs
from recipes.cut_outs.scene import Look, write_objects
from recipes.cut_outs.stamps import stamp_folder
from store import MapStore
from tokenmix_loader import evidence

CLASSES, SEED = 10, 0
FORMS = {"label": "logit", "cam": "contrast"}  # what evidence="auto" takes
DIGITS_TEACHER = TeacherSpec(
    "test_resnet", num_classes=10, model_args={"output_stride": 8}, device="cpu", input_size=(96, 96),
    checkpoint=Path(digits.__file__).with_name("teacher.safetensors"), crop_mode="squash", crop_pct=1.0,
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Two class folders of one set, and a teacher whose own head knows the classes."""

    train: Path
    test: Path
    teacher: TeacherSpec


def cases(folder: Path, train: int, test: int) -> dict[str, Case]:
    """Written where they are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    look = Look(stamp_folder(), write_objects(folder / "objects.json", CLASSES))
    for split, count in (("train", train), ("test", test)):
        cut_outs.generate(folder / f"cut-outs-{split}", count, seed=SEED, split=split, look=look)
        digits.generate(folder / f"digits-{split}", count, seed=SEED, split=split)
    teachers = {"cut-outs": TeacherSpec("efficientnet_lite0", device="cpu"), "digits": DIGITS_TEACHER}
    return {
        name: Case(folder / f"{name}-train", folder / f"{name}-test", teacher) for name, teacher in teachers.items()
    }


def renamed(root: Path) -> Path:
    """The images of ROOT in classes whose names say nothing, in another order; links."""
    given = sorted(path.name for path in (root / "images").iterdir())
    target = root / "renamed"
    target.mkdir(exist_ok=True)
    for number, name in enumerate(np.random.default_rng(SEED).permutation(given).tolist()):
        link = target / f"blorp-{number:02}"
        if not link.is_symlink():
            link.symlink_to(root / "images" / name, target_is_directory=True)
    return target


def measure(case: Case, seeds: int) -> dict[str, Any]:
    """Errors with both heads, by kind, and how far they are apart."""
    head = case.train / "head.safetensors"
    if not head.exists():
        extract.fit_head(renamed(case.train), head, case.teacher, FitOptions(decoding_processes=1))
    headed = replace(case.teacher, head=head)
    result: dict[str, Any] = {}
    for kind, form in FORMS.items():
        own, fitted = (replace(teacher, kind=kind) for teacher in (case.teacher, headed))
        stores = {
            "its own head": store_of(case.test / "images", case.test / f"maps-{kind}", own),
            "fitted head": store_of(renamed(case.test), case.test / f"maps-fitted-{kind}", fitted),
        }
        result[kind] = compare(case.test, stores, form, seeds)
    return result


def store_of(images: Path, store: Path, spec: TeacherSpec) -> MapStore:
    """Extracted where it is not there yet."""
    extract.run(images, store, spec, JobOptions(decoding_processes=1))
    return MapStore(store)


def compare(root: Path, stores: dict[str, MapStore], form: str, seeds: int) -> dict[str, Any]:
    """Of the same crops and masks."""
    first = stores["its own head"]
    rows = {name: rows_of(store, first.keys) for name, store in stores.items()}
    masks = [pixel_mask(root / "images", key) for key in first.keys]
    given = {
        name: (evidence(store.read(rows[name]), form), torch.from_numpy(store.views(rows[name])))
        for name, store in stores.items()
    }
    errors, image = errors_of(given, masks, seeds)
    ratio = {name: round(float(error.sum() / errors["area"].sum()), 4) for name, error in errors.items()}
    low, high = interval(errors, image, "fitted head", "its own head")
    return {
        "ratio_to_area": ratio, "difference": round(ratio["fitted head"] - ratio["its own head"], 4),
        "interval": [low, high], "top1": {name: top1_of(store) for name, store in stores.items()},
    }  # fmt: skip


def rows_of(store: MapStore, keys: Sequence[str]) -> npt.NDArray[np.int64]:
    """Rows of the files of these names, whatever their classes are called."""
    row = {Path(key).name: number for number, key in enumerate(store.keys)}
    return np.array([row[Path(key).name] for key in keys])


def top1_of(store: MapStore) -> float:
    """Share of images whose label is the teacher's first class."""
    return round(float(np.mean(store.predictions == np.asarray(store.header.teacher_class)[store.labels])), 4)


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=400, help="images to fit a head on")
    parser.add_argument("--test", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=5, help="of crops and masks")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "own_classes.json")
    given = parser.parse_args()
    found = {name: measure(case, given.seeds) for name, case in cases(given.folder, given.train, given.test).items()}
    result = {"train": given.train, "test": given.test, "seeds": given.seeds, "sets": found, "machine": machine()}
    print(json.dumps(result, indent=1))
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
