"""Everything that `tokenmix verify` looks at: the files, the images, and the teacher run again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import store as stores
from extract.audit.run_again import RerunReport, rerun_teacher
from extract.audit.unreadable import drop_repaired
from extract.images.image_list import ImageList
from extract.images.listing import list_images
from extract.images.stored_order import in_stored_order
from store import StoreError, VerifyReport, read_header


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
    deep: int | None = None,
    seed: int = 0,
    checkpoint: Path | None = None,
    head: Path | None = None,
    device: str | None = None,
) -> Verdict:
    """As `extract.verify`; the teacher is run only where nothing else is wrong, for it could say nothing new."""
    report, done = stores.repair(store) if repair or retry_unreadable else (stores.verify(store), [])
    verdict = Verdict(report, tuple(map(str, report.problems)), tuple(done))
    if images is None:
        return verdict
    listed = list_images(images)
    problems = compare_images(store, listed)
    if retry_unreadable and not problems:
        problems = tuple(drop_repaired(listed, store))
    verdict = replace(verdict, problems=verdict.problems + problems)
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
        f"{images.root}: {what} differ from the store's: expected {stored[name]}, found {given[name]}"
        for name, what in (("class_names", "class names"), ("digest", "names or labels of the images"))
        if given[name] != stored[name]
    )
