"""Whether the teacher's predictions bear out that each class is shown by the right output, and what to do if not."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from extract.errors import TeacherError
from extract.job.progress import Progress, Report
from store import Header, read_header
from store.checking.predictions import (
    END_LEVEL,
    LEAST_CLASSES,
    Confusion,
    Ints,
    StoredPredictions,
    exchanged,
    is_below,
    is_chance,
    is_permutation,
    is_untrained,
    read_predictions,
)
from store.spec import Json

LIVE_LEVEL = 1e-4  # significance level while the job runs, for it is tested again and again
CHECK_ROWS = 256  # between two tests
WINDOWS = 64  # earlier tests that a sudden drop is measured from
DROP = 0.25  # of the share of right predictions before
WORST = 3  # classes that are named


class Top1Watch:
    """Looks at a job's predictions while it runs and at its end; says once what is suspicious."""

    def __init__(self, store: Path, min_top1: float | None, say: Callable[[str], None]):
        """`min_top1`: the share of right predictions below which the job has failed."""
        self._store, self._min_top1, self._say = store, min_top1, say
        self._header: Header | None = None  # not there before the job has begun
        self._said = False
        self._next = CHECK_ROWS // 4
        self._earlier: deque[tuple[Ints, Ints]] = deque(maxlen=WINDOWS)

    def __call__(self, progress: Progress) -> None:
        """After every batch. Raises TeacherError where top-1 is clearly below half of `min_top1`."""
        confusion = progress.confusion
        if confusion.judged < self._next:
            return
        self._next = confusion.judged + CHECK_ROWS
        header = self._header = self._header or read_header(self._store)
        hopeless = (self._min_top1 or 0) / 2
        if _many_classes(confusion) and is_below(confusion.judged, confusion.top1, hopeless, LIVE_LEVEL):
            raise self._too_low(confusion, "stopped early, as it is clearly below half of that")
        if self._said or is_untrained(header):
            return
        if is_chance(confusion.rows, confusion.right, header.outputs, LIVE_LEVEL):
            self._warn(chance_lines(confusion, header, self._store))
        elif found := self._drop(confusion, header.outputs):
            self._warn([found])

    def finish(self, report: Report) -> None:
        """At the end: the whole store, as far as it is done. Raises TeacherError where top-1 is below `min_top1`."""
        header = read_header(self._store)
        stored = read_predictions(self._store, header)
        confusion = stored.confusion if stored.confusion.judged else report.progress.confusion
        complete = not report.stopped
        for line in suspicions(confusion, header, self._store, complete=complete):
            self._say(line)
        if complete and self._min_top1 is not None and not confusion.top1 >= self._min_top1:
            raise self._too_low(confusion, "every shard is in place")

    def _warn(self, lines: list[str]) -> None:
        self._said = True
        for line in lines:
            self._say(line)

    def _drop(self, confusion: Confusion, outputs: int) -> str | None:
        """Where the latest rows of several classes are hardly better than a guess, and those before were not."""
        rows, right = confusion.rows, confusion.right
        for rows_then, right_then in reversed(self._earlier):
            late, late_right = rows - rows_then, right - right_then
            before = right_then.sum() / max(rows_then.sum(), 1)
            if late_right.sum() > DROP * before * late.sum():
                break
            if is_chance(late, late_right, outputs, LIVE_LEVEL):
                return (
                    f"WARNING: top-1 has dropped: {_percent(float(late_right.sum() / late.sum()))} of the last "
                    f"{late.sum()} images, of {(late > 0).sum()} classes; {_percent(float(before))} of the "
                    f"{rows_then.sum()} before. Look at the images that come now, and at the device"
                )
        self._earlier.append((rows.copy(), right.copy()))
        return None

    def _too_low(self, confusion: Confusion, when: str) -> TeacherError:
        return TeacherError(
            f"{self._store}: expected a top-1 of {_percent(self._min_top1 or 0)} or more, as --min-top1 says, found "
            f"{_percent(confusion.top1)} of {confusion.judged} images ({when}); do not train on this store: remove it "
            "and extract with what is right, see the warning, or go on with a lower --min-top1: finished shards are "
            "kept"
        )


def prediction_state(store: Path, header: Header) -> dict[str, Json]:
    """Top-1, unreadable rows and all classes' shares of right predictions in the finished shards, for programs."""
    stored = read_predictions(store, header)
    confusion = stored.confusion
    return {
        "rows_judged": confusion.judged,
        "rows_unreadable": stored.unreadable,
        "top1": None if math.isnan(confusion.top1) else confusion.top1,
        "top1_by_class": [right / rows if rows else None for rows, right in _by_class(confusion)],
        "warnings": [line.strip() for line in suspicions(confusion, header, store, complete=stored.complete)],
    }


def prediction_lines(stored: StoredPredictions) -> Iterator[str]:
    """Top-1 with the worst classes, and how many rows are unreadable, in lines for a person."""
    confusion, names = stored.confusion, stored.header.dataset["class_names"]
    if confusion.judged:
        random = ", random weights" if is_untrained(stored.header) else ""
        yield f"top-1     {_percent(confusion.top1)} of {confusion.judged} images{random}"
        shares = _by_class(confusion)
        worst = (f"{names[k]!r} {_percent(shares[k][1] / shares[k][0])}" for k in confusion.worst(WORST))  # type: ignore[index]
        yield f"worst     {', '.join(worst)}"
    else:
        yield "top-1     - (no predictions)"
    yield f"errors    {stored.unreadable} unreadable images"
    if stored.broken:
        yield f"broken    {stored.broken} shards cannot be read, see `tokenmix verify`"


def _by_class(confusion: Confusion) -> list[tuple[int, int]]:
    return list(zip(confusion.rows.tolist(), confusion.right.tolist(), strict=True))


def suspicions(confusion: Confusion, header: Header, store: Path, *, complete: bool) -> list[str]:
    """What is suspicious in the predictions, in lines for a person; none where nothing is.

    `complete`: no class that has not been seen will come.
    """
    if is_untrained(header):
        return []
    if is_chance(confusion.rows, confusion.right, header.outputs, END_LEVEL, all_seen=complete):
        return chance_lines(confusion, header, store)
    if circle := exchanged(confusion):
        names = header.dataset["class_names"]
        pairs = ", ".join(f"{names[a]!r} as {names[b]!r}" for a, b in _first(circle))  # type: ignore[index]
        return [f"WARNING: {len(circle)} classes are mostly predicted as one another: {pairs}; {_CLASS_MAP}"]
    return []


_CLASS_MAP = "check their labels and order, or say which output shows each class with --class-map FILE"


def chance_lines(confusion: Confusion, header: Header, store: Path) -> list[str]:
    """That top-1 is hardly better than a guess, with the likely causes, the likeliest first."""
    moved = confusion.moved()
    judged_classes = int((confusion.rows > 0).sum())
    permuted = is_permutation(moved, judged_classes)
    return [
        f"WARNING: {_figure(header)} {_percent(confusion.top1)} of {confusion.judged} images of {judged_classes} "
        "classes: hardly better than a guess.",
        "  The maps show other things than their classes: do not train on them, extract into another store.",
        *(_moved_lines(moved, header, permuted) if moved else ()),
        "  Likely causes, the likeliest first:",
        *(f"  {place}. {cause}" for place, cause in enumerate(_causes(header, moved), 1)),
        f"  To look at maps: tokenmix show {store} --images IMAGES -o pairs.png",
    ]


def is_imported(header: Header) -> bool:
    """Whether the maps are another project's, which has left no predictions."""
    return "source" not in header.teacher


def _figure(header: Header) -> str:
    return "the class that leads most tokens of a map is the image's own in" if is_imported(header) else "top-1 is"


def _causes(header: Header, moved: Mapping[int, int]) -> list[str]:
    order = "the class order: which output shows each class; give --class-map FILE"
    if is_imported(header):
        return [order, "maps of other images of the same names, or of a teacher of other classes"]
    head = "another head than one for the dataset's classes: check --checkpoint, --num-classes, --head"
    weights = "weights that were not trained, or not loaded: check --checkpoint"
    made = "another preprocessing than in training: check --input-size, --crop-mode, --crop-pct; the model's mean, std"
    same_for_all = len(moved) > 1 and len(set(moved.values())) == 1
    return [weights, made, order, head] if same_for_all else [order, head, made, weights]


def _moved_lines(moved: Mapping[int, int], header: Header, permuted: bool) -> Iterator[str]:
    names = header.dataset["class_names"]
    yield "  The class order looks permuted:" if permuted else "  Some classes are mostly predicted as others:"
    for label, output in _first(moved):
        yield f"    class {names[label]!r} is mostly predicted as output {output}{_spell(output, header)}"  # type: ignore[index]


def _first(pairs: Mapping[int, int]) -> list[tuple[int, int]]:
    return list(pairs.items())[:3]


def _spell(output: int, header: Header) -> str:
    """What is known of an output: the name that the head gives it, the class it stands for, its label set's name."""
    head = header.teacher.get("head")
    if isinstance(head, Mapping):
        return f" ({head['class_names'][output]!r})"  # type: ignore[index]
    from extract.images.classes import describe_output  # brings timm: `tokenmix info` answers at once without

    names = header.dataset["class_names"]
    expected = header.teacher_class.tolist()
    words = describe_output(names, output, header.outputs)  # type: ignore[arg-type]
    that = f", that of class {names[expected.index(output)]!r}" if output in expected else ""  # type: ignore[index]
    return that + (f" ({words})" if words else "")


def _many_classes(confusion: Confusion) -> bool:
    return int((confusion.rows > 0).sum()) >= min(len(confusion.rows), LEAST_CLASSES)


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f} %"
