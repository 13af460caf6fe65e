"""Everything that `tokenmix verify` looks at: the files, the images, and the teacher run again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import store as stores
from extract.audit.run_again import RerunReport, rerun_teacher
from extract.audit.unreadable import drop_repaired
from extract.images.image_list import ImageList
from extract.images.listing import list_images
from extract.images.same_files import other_files
from extract.images.stored_order import in_stored_order
from store import StoreError, VerifyReport, read_header
from store.format.header import differences
from store.format.header_fields import short
from store.spec import FINGERPRINT, shard_name


@dataclass(frozen=True)
class Verdict:
    """What was found, a line each, what was `done` about it, and how the teacher's rerun went.

    `problems`: those of the report, of the images and of the rerun, and the shards that `retry_unreadable` removed.
    """

    report: VerifyReport
    problems: tuple[str, ...]
    done: tuple[str, ...]
    deep: RerunReport | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify_all(
    store: Path,
    *,
    images: str | Path | None = None,
    repair: bool = False,
    retry_unreadable: bool = False,
    sample: int | None = None,
    deep: int | None = None,
    seed: int = 0,
    checkpoint: Path | None = None,
    head: Path | None = None,
    device: str | None = None,
    on_compared: Callable[[int], object] = lambda _: None,
) -> Verdict:
    """As `extract.verify`; images are tried again, and the teacher run, only where their list and files are right."""
    needing = {"sample": sample, "retry_unreadable": retry_unreadable or None, "deep": deep}
    if images is None and (given := [name for name, value in needing.items() if value is not None]):
        raise ValueError(f"verify: {given[0]}={needing[given[0]]!r}: expected images, to read them again, found none")
    if sample is not None and sample < 0:
        raise ValueError(f"verify: expected a sample of 0 files or more, found {sample}")
    report, done = stores.repair(store) if repair or retry_unreadable else (stores.verify(store), [])
    verdict = Verdict(report, tuple(map(str, report.problems)), tuple(done))
    if images is None:
        return verdict
    listed = list_images(images, store=store)
    problems, notes = compare_images(store, listed), tuple[str, ...]()
    if not problems:
        problems, notes = compare_files(store, listed, sample, on_compared)
    if retry_unreadable and problems:
        notes += ("--retry-unreadable was left out: it needs the images that the store was made of",)
    elif retry_unreadable:
        problems = tuple(drop_repaired(listed, store))
    verdict = replace(verdict, problems=verdict.problems + problems, done=verdict.done + notes)
    if deep and not verdict.ok:
        left_out = "--deep was left out: it needs a sound store and the images that it was made of"
        return replace(verdict, done=(*verdict.done, left_out))
    if deep:
        rerun = rerun_teacher(store, listed, deep, seed=seed, checkpoint=checkpoint, head=head, device=device)
        return replace(verdict, problems=verdict.problems + rerun.problems, deep=rerun)
    return verdict


def compare_images(store: Path, images: ImageList) -> tuple[str, ...]:
    """How the names, labels or classes of the images differ from those that the store was made of, a line each."""
    try:
        given = in_stored_order(images, store)[0].header()
    except StoreError as error:
        return (f"{images.root}: {error}",)
    stored = read_header(store).dataset
    return tuple(
        f"{images.root}: {what} differ from the store's: {place}: expected {short(expected)}, found {short(found)}"
        for name, what in (("class_names", "class names"), ("digest", "names or labels of the images"))
        for place, expected, found in differences(name, stored[name], given[name])
    )


def compare_files(
    store: Path, images: ImageList, sample: int | None = None, on_compared: Callable[[int], object] = lambda _: None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A line on each image whose file is not the one that its map was made from; and what else there is to say.

    `sample`: compare so many, evenly spread; default: all. `on_compared` is told how many more were compared.
    """
    header = read_header(store)
    if FINGERPRINT.name not in header.columns:
        return (), ("files were not compared: the store was begun before fingerprints were kept; names and labels fit",)
    images, _ = in_stored_order(images, store)
    problems, shards, compared = [], dict[str, None](), 0

    def count(files: int) -> None:
        nonlocal compared
        compared += files
        on_compared(files)

    for row, found in other_files(images, store, sample, count):
        shard = shard_name(header.sharding.shard_of(row))
        what = found if isinstance(found, str) else f"expected the file that its map was made from, found {found}"
        problems.append(f"{shard}, row {row}, key {images.keys[row]!r}: {what}")
        shards[shard] = None
    if not problems:
        return (), ()
    remedy = (
        f"of {compared} files compared {len(problems)} are not those that the maps were made from. Another "
        "split or version of the dataset, or copies that were resized or saved anew? Then give the original images. "
        f"Changed on purpose? Then remove {_few(list(shards))} and run `tokenmix extract` again"
    )
    return tuple(problems), (remedy,)


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more shards, as named above," if len(names) > 5 else "")
