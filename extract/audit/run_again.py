"""Whether the teacher that the header names made the maps: it is built again and run on some of the images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from extract.errors import ImagesError, TeacherError
from extract.images.image_list import ImageList
from extract.job.decoding import Batch, Decoder
from extract.job.row_batch import outputs_of, row_batch
from extract.teacher.presets import make_teacher
from extract.teacher.protocol import NO_WEIGHTS, Teacher, spec_from_header
from store import Header, MapStore
from store.spec import STATUS_OK, UNKNOWN

# How far another device, batch size or half precision may change a map, relative to its largest magnitude.
TOLERANCE = {"none": 0.005, "bf16": 0.1, "fp16": 0.02}
UINT8_STEP = 1 / 255
BATCH = 16
Maps = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class RerunReport:
    """Errors are relative to the largest magnitude in a row's map; `problems`: a line per row that is not as stored."""

    rows: int
    max_error: float
    tolerance: float
    problems: tuple[str, ...]


def rerun_teacher(
    path: Path,
    images: ImageList,
    rows: int,
    *,
    seed: int = 0,
    checkpoint: Path | None = None,
    head: Path | None = None,
    device: str | None = None,
) -> RerunReport:
    """Run the teacher again on `rows` rows drawn by `seed`, and compare.

    Raises ShardError for a store that is not complete, TeacherError where the teacher cannot be built or is another
    one than the header's.
    """
    store = MapStore(path)
    teacher = rebuild_teacher(store.header, checkpoint, head, device)
    tolerance = TOLERANCE[str(store.header.teacher.get("amp", "none"))]
    tolerance += UINT8_STEP if store.header.dtype == "uint8" else 0
    chosen = np.sort(np.random.default_rng(seed).permutation(len(store))[:rows])
    places = {key: place for place, key in enumerate(images.keys)}
    problems, largest = [], 0.0
    for at in range(0, len(chosen), BATCH):
        for row, error, message in _compare(store, chosen[at : at + BATCH], images, places, teacher):
            largest = max(largest, error)
            if message or error > tolerance:
                found = f"expected an error of at most {tolerance:g} of the map's largest value, found {error:.3g}"
                problems.append(f"row {row}, key {store.keys[row]!r}: teacher run again: {message or found}")
    return RerunReport(len(chosen), largest, tolerance, tuple(problems))


def rebuild_teacher(header: Header, checkpoint: Path | None, head: Path | None, device: str | None) -> Teacher:
    """The teacher of a store; TeacherError, naming what differs, where it is not the one that made the maps."""
    stored = header.teacher
    if "route" not in stored or (checkpoint is None and stored["source"] not in ("pretrained", NO_WEIGHTS)):
        raise TeacherError(
            f"teacher {stored.get('name')}: expected one that can be built again, found {stored.get('source')} "
            "weights; give the weights' file as --checkpoint"
        )
    if (head is None) == ("head" in stored):
        expected, remedy = ("a head of its own", "give") if head is None else ("its own head", "leave out")
        raise TeacherError(
            f"teacher {stored.get('name')}: expected {expected}, as the store has it; {remedy} --head FILE"
        )
    teacher = make_teacher(spec_from_header(header, checkpoint=checkpoint, head=head, device=device))
    _require_same(header, teacher)
    return teacher


def _require_same(header: Header, teacher: Teacher) -> None:
    built = {"teacher": teacher.header(), "preprocessing": teacher.preprocessing.header()}
    stored = {"teacher": header.teacher, "preprocessing": header.preprocessing}
    for part, values in built.items():
        for name in dict.fromkeys([*values, *stored[part]]):  # what only one of them has differs too
            if name != "source" and stored[part].get(name) != values.get(name):
                raise TeacherError(
                    f"{part}.{name}: expected {stored[part].get(name)!r}, as the store has it, found "
                    f"{values.get(name)!r}; "
                    f"give the --{'head' if name == 'head' else 'checkpoint'} that the maps were made with"
                )


def _compare(
    store: MapStore, rows: npt.NDArray[np.int64], images: ImageList, places: Mapping[str, int], teacher: Teacher
) -> Iterator[tuple[int, float, str]]:
    """(row, error, what else is wrong with it or "") of each row."""
    known = np.array([row for row in rows.tolist() if store.keys[row] in places], np.int64)
    for row in np.setdiff1d(rows, known).tolist():
        yield row, 0.0, "expected its image, found none of this name"
    if not len(known):
        return
    decoder = Decoder(images, teacher.preprocessing)
    batch = decoder.collate([decoder[places[store.keys[row]]] for row in known.tolist()])
    if batch.fault:  # else its black row would be taken for another map
        raise ImagesError(batch.fault)
    outputs, dtype = outputs_of(store.header, store.labels[known]), getattr(torch, store.header.maps_dtype)
    maps = teacher.start(batch.pixels, outputs, dtype).result()
    found = row_batch(images, batch, maps, store.header).payload
    stored = _stored(store, known)
    for i, row in enumerate(known.tolist()):
        yield row, _error(stored, found, i), _fault(store, row, batch, i)


def _stored(store: MapStore, rows: npt.NDArray[np.int64]) -> Maps:
    """The payload's real numbers; not the classes of kind topk, which may change places where logits are equal."""
    if store.kind == "topk":
        return {"topk_logit": store.read_topk(rows)[0], "logsumexp": store.read_logsumexp(rows)}
    read = store.read_features if store.kind == "features" else store.read
    return {store.header.maps[0].name: read(rows)}


def _error(stored: Maps, found: Maps, i: int) -> float:
    errors = []
    for name, values in stored.items():
        a, b = values[i].astype(np.float64), found[name][i].astype(np.float64)
        largest = max(np.abs(a).max(), np.abs(b).max())
        errors.append(float(np.abs(a - b).max() / largest) if largest else 0.0)
    return max(errors)


def _fault(store: MapStore, row: int, batch: Batch, i: int) -> str:
    readable = store.statuses[row] == STATUS_OK
    if readable == bool(batch.error[i]):
        sound = "a readable image"
        return f"expected {store.errors.get(row, sound)}, found {batch.error[i] or sound}"
    if readable and store.sizes[row].tolist() != batch.size[i].tolist():
        return f"expected an image of {store.sizes[row].tolist()} px, found {batch.size[i].tolist()}"
    fingerprint = int(store.fingerprints[row])
    if readable and fingerprint not in (UNKNOWN, int(batch.fingerprint[i])):
        return f"expected the file of fingerprint {fingerprint:016x}, found {int(batch.fingerprint[i]):016x}"
    return ""
