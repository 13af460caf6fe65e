"""Images and stores of the ablation: cut-outs on photographs, and all maps that an arm may read."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

import extract
from extract import JobOptions, TeacherSpec
from extract.images import list_images
from recipes.cut_outs.generate import generate
from recipes.cut_outs.scene import Look, write_objects
from recipes.cut_outs.stamps import stamp_folder
from store import Header, RowBatch, ShardWriter, create_store
from store.format.rows import list_digest
from store.spec import STATUS_OK

SHORT_SIDE_PX: Final = 144
MASK_GRID: Final = (28, 28)
IDEAL: Final = "ideal"  # the store whose maps are the true pixel masks
STORES: Final[Mapping[str, TeacherSpec]] = {
    "label-lite0": TeacherSpec("efficientnet_lite0", kind="label", device="cpu"),
    "label-lite1": TeacherSpec("efficientnet_lite1", kind="label", device="cpu"),
    "label-lite2": TeacherSpec("efficientnet_lite2", kind="label", device="cpu"),
    "fused-lite0": TeacherSpec(
        "efficientnet_lite0", kind="cam", scales=(1.0, 2.0), spread=False, rivals=0, device="cpu"
    ),
    "cam-lite0": TeacherSpec("efficientnet_lite0", kind="cam", scales=(1.0, 2.0), device="cpu"),
    "topk-lite0": TeacherSpec("efficientnet_lite0", kind="topk", top_k=5, device="cpu"),
    "saliency": TeacherSpec("saliency", kind="activation"),
}


@dataclass(frozen=True)
class Data:
    """Two folders, each with images/CLASS/*.jpg and masks/CLASS/*.png; maps of the training images lie beside them."""

    train: Path
    test: Path

    def store(self, name: str) -> Path:
        """Folder of a store of the training images."""
        return self.train / f"maps-{name}"

    def digest(self) -> str:
        """SHA-256 of all images and masks, and of their names."""
        found = hashlib.sha256()
        for root in (self.train, self.test):
            for path in sorted(path for part in ("images", "masks") for path in (root / part).glob("*/*")):
                found.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
        return found.hexdigest()


def cut_outs(folder: Path, classes: int, images: int, test_images: int, stamps: Path | None = None) -> Data:
    """Write the images that are not there yet. The test has the same objects on photographs that the training lacks.

    Raises FileNotFoundError where images and stamps are missing, FileExistsError where other files are in the way.
    """
    data = Data(folder / f"train-{classes}-{images}", folder / f"test-{classes}-{test_images}")
    if _images(data.train) == images and _images(data.test) == test_images:
        return data
    stamps = stamp_folder(stamps)
    folder.mkdir(parents=True, exist_ok=True)
    objects = write_objects(folder / f"objects-{classes}.json", classes)
    look = Look(stamps, objects, short_side_px=(SHORT_SIDE_PX, SHORT_SIDE_PX))
    generate(data.train, images, seed=0, split="train", look=look)
    generate(data.test, test_images, seed=0, split="test", look=look)
    return data


def _images(root: Path) -> int:
    """Each is written after its mask."""
    return len(list((root / "images").glob("*/*.jpg")))


def prepare_stores(data: Data, names: Iterable[str], say: Callable[[str], object]) -> None:
    """Extract, or finish extracting, these stores. Raises ExtractError and StoreError."""
    for name in sorted(set(names)):
        if name != IDEAL:
            say(f"maps: {name}")
            extract.run(data.train / "images", data.store(name), STORES[name], JobOptions(decoding_processes=0))
        elif not data.store(IDEAL).exists():
            write_ideal_maps(data.store(IDEAL), data.train)


def write_ideal_maps(store: Path, root: Path) -> None:
    """A store of kind `activation` whose maps are the true masks, averaged over the cells of the grid."""
    unfinished = store.with_name(f"{store.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    listed = list_images(root / "images")
    keys, labels = list(listed.keys), np.asarray(listed.labels, np.int32)
    masks = [Image.open((root / "masks" / key).with_suffix(".png")) for key in keys]
    maps = [np.asarray(mask.resize(MASK_GRID, Image.Resampling.BOX), np.float16) / np.float16(255) for mask in masks]
    dataset: dict[str, Any] = {
        "root_name": "images", "class_names": list(listed.class_names), "teacher_class": [],
        "digest": list_digest(keys, labels),
    }  # fmt: skip
    count = len(keys)
    header = Header("activation", {"name": "true masks"}, {}, MASK_GRID, "float16", count, count, dataset, {})
    create_store(unfinished, header)
    with ShardWriter(unfinished, header, 0) as writer:
        writer.append(
            RowBatch(
                payload={"activation": np.stack(maps)},
                label=labels,
                prediction=np.full(count, -1, np.int32),
                size=np.array([mask.size for mask in masks], np.int32),
                view=np.tile(np.array([0, 0, 1, 1], np.float32), (count, 1)),
                status=np.full(count, STATUS_OK, np.uint8),
                key=keys,
                error=[""] * count,
            )
        )
        writer.publish()
    unfinished.rename(store)
