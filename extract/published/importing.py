"""Maps that others have computed: one `.pt` per image, in a tree parallel to the images, into a store of kind topk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from extract.errors import ExtractError, ImagesError
from extract.images.image_list import ImageList
from extract.images.same_files import require_same_files
from extract.images.stored_order import columns_of
from extract.job.fill import fill_store
from extract.job.progress import Progress, Report
from extract.published.exporting import MAX_FLOAT16_OUTPUTS, map_paths
from extract.published.map_rows import MapRows
from extract.published.torch_file import read_tensor
from extract.settings import ImportOptions
from store import Header

Array = npt.NDArray[Any]
BATCH = 256
SAMPLED_FILES = 16


class TreeFormat(NamedTuple):
    """What is known of published trees: the view that their teacher had, and the type of their numbers."""

    view: str
    dtype: str


# Both are [2, k, h, w]: logits, the largest first, then class numbers. See docs/importing.md.
FORMATS = {"tokenlabeling": TreeFormat("center", "float16"), "relabel": TreeFormat("squash", "float32")}


def import_tree(
    form: str,
    tree: Path,
    images: ImageList,
    store: Path,
    options: ImportOptions,
    teacher_class: Sequence[int] | None = None,
    outputs: int | None = None,
    *,
    on_progress: Callable[[Progress], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Fill this worker's share of the store, then help the others; started again, it goes on.

    Class numbers in the files are outputs of the published teacher, of which there are `outputs`; `teacher_class` [K]
    is the one that shows each class of the dataset. None: the first ones, in order, and as many as it has classes.

    A missing or broken map is a row with status 1, and counted. The running top-1 is that of the
    most frequent first class. Raises what `fill_store` raises, and ImagesError for a tree of which no file is a map,
    for two images of one map, and for class numbers that the files cannot hold.
    """
    paths = [tree / path for path in map_paths(images.keys)]
    header = make_import_header(form, tree, paths, images, options, teacher_class, outputs)
    header = replace(header, columns=columns_of(store))
    require_same_files(images, store, header)
    return fill_store(
        store,
        header,
        MapRows(images, paths, header),
        batch_size=BATCH,
        worker=options.worker,
        max_errors=options.max_errors,
        on_progress=on_progress,
        stop=stop,
        say=say,
    )


def make_import_header(
    form: str,
    tree: Path,
    paths: Sequence[Path],
    images: ImageList,
    options: ImportOptions,
    teacher_class: Sequence[int] | None = None,
    outputs: int | None = None,
) -> Header:
    """All that decides the content: shapes from the first map that can be read, and a digest of a few files."""
    classes = range(len(images.class_names)) if teacher_class is None else teacher_class
    outputs = len(images.class_names) if outputs is None else outputs
    first = _first_map(tree, paths)
    if first.dtype == np.float16 and outputs > MAX_FLOAT16_OUTPUTS:
        raise ImagesError(
            f"{tree}: expected at most {MAX_FLOAT16_OUTPUTS} classes, whose numbers float16 can hold, found {outputs}; "
            "save the class numbers in another type"
        )
    view, dtype = FORMATS[form]
    return Header(
        kind="topk",
        teacher={
            "name": f"imported from {form} files",
            "classes": outputs,
            "files": _sampled(paths),
            "logsumexp": "unknown",
        },
        preprocessing={"crop_mode": options.view or view, "crop_pct": options.crop_pct, "source": "stated at import"},
        grid=first.shape[2:],
        dtype=options.dtype or dtype,
        rows=len(images),
        shard_rows=options.shard_rows,
        depth=first.shape[1],
        dataset=images.header() | {"teacher_class": list(classes)},
        versions={name: version(name) for name in ("tokenmix-maps", "h5py", "pillow")} | {"tree": str(tree)},
    )


def _first_map(tree: Path, paths: Sequence[Path]) -> Array:
    reason = "no such files"
    for path in paths:
        try:
            found = read_tensor(path)
        except FileNotFoundError:
            continue
        except ExtractError as error:
            reason = f"{path}: {error}"
            continue
        if found.ndim == 4 and len(found) == 2 and min(found.shape) > 0:
            return found
        reason = f"{path}: {list(found.shape)}"
    raise ImagesError(
        f"{tree}: expected maps [2, k, h, w] such as {paths[0]}, found none ({reason}); give the tree whose "
        "folders are the classes"
    )


def _sampled(paths: Sequence[Path]) -> str:
    """SHA-256 over a few files, so that a resume from another tree is refused."""
    digest = hashlib.sha256()
    for at in np.linspace(0, len(paths) - 1, min(SAMPLED_FILES, len(paths))).astype(int).tolist():
        digest.update(paths[at].read_bytes() if paths[at].is_file() else b"")
        digest.update(b"\0")
    return digest.hexdigest()
