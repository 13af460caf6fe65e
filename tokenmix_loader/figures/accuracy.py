"""What the teacher's predictions say, class by class, for a page."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tokenmix_loader.store_access import (
    STATUS_OK,
    Confusion,
    Header,
    MapStore,
    StoredPredictions,
    exchanged,
    is_untrained,
)


class ClassLine(NamedTuple):
    """A class of the dataset: its images with a prediction, the right ones, and what most are taken for instead."""

    name: str
    rows: int
    right: int
    instead: str | None

    @property
    def share(self) -> float:
        """Of right predictions."""
        return self.right / self.rows


class Accuracy(NamedTuple):
    """The teacher's accuracy over all finished rows; `classes`: those that were seen, the worst first."""

    judged: int
    top1: float  # NaN where nothing was judged
    classes: list[ClassLine]
    unseen: int  # classes of the dataset without an image that was judged
    warnings: list[str]


class OutputNames:
    """What to call an output of the teacher: the class of the dataset that it shows, or its number."""

    def __init__(self, header: Header) -> None:
        """Of this store's teacher."""
        names = header.dataset["class_names"]
        self._names = {int(output): str(names[label]) for label, output in enumerate(header.teacher_class)}  # type: ignore[index]

    def __getitem__(self, output: int) -> str:
        """The name."""
        return self._names.get(output, f"output {output} of the teacher")


def predictions_of(maps: MapStore) -> StoredPredictions:
    """As `read_predictions` has it, of columns that this store has read anyway."""
    ok, confusion = maps.statuses == STATUS_OK, Confusion(maps.header.teacher_class)
    confusion.add(maps.labels, np.where(ok, maps.predictions, -1))
    unreadable, complete = int((maps.finished & ~ok).sum()), bool(maps.finished.all())
    return StoredPredictions(maps.header, confusion, unreadable, broken=0, complete=complete)


def accuracy_of(stored: StoredPredictions) -> Accuracy:
    """Count it, and say what is suspicious."""
    confusion, header = stored.confusion, stored.header
    names, outputs, moved = header.dataset["class_names"], OutputNames(header), confusion.moved()
    lines = [
        ClassLine(
            str(names[label]),  # type: ignore[index]
            int(confusion.rows[label]),
            int(confusion.right[label]),
            outputs[moved[label]] if label in moved else None,
        )
        for label in confusion.worst(len(confusion.rows))
    ]
    unseen = len(confusion.rows) - len(lines)
    return Accuracy(confusion.judged, confusion.top1, lines, unseen, _warnings(stored))


def _warnings(stored: StoredPredictions) -> list[str]:
    if is_untrained(stored.header):
        return ["The teacher has random weights: its maps show nothing of the classes."]
    if stored.are_chance:
        return [
            "The teacher is hardly better than a guess: the maps show other things than their classes, so do not train "
            "on them. `tokenmix info` names the likely causes."
        ]
    if circle := exchanged(stored.confusion):
        names = stored.header.dataset["class_names"]
        pairs = ", ".join(f"{names[a]} as {names[b]}" for a, b in list(circle.items())[:3])  # type: ignore[index]
        return [
            f"{len(circle)} classes are mostly predicted as one another: {pairs}. Check their labels and their order."
        ]
    return []
