"""The teacher's predictions against the classes of the dataset: where a wrong class order or head shows.

Chance is judged class by class, so that neither a dataset of unequal classes nor one that is read in the order of its
classes misleads: five classes must have been seen, and each counts the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from store.errors import ShardError
from store.folder.files import present_shards
from store.format.header import Header
from store.format.shard import open_shard
from store.spec import STATUS_OK, shard_name

Ints = npt.NDArray[np.int64]

SLIGHT = 0.2  # Cohen's kappa up to which agreement is called slight (Landis and Koch 1977)
LEAST_CLASSES = 5  # neighbours in a list of classes may all be difficult ones
END_LEVEL = 0.01  # significance level for a store as it is
LEAST_ROWS = 5  # of a class, before its most frequent prediction is reported
_ONE_LABEL = 1 << 32  # pairs are counted as one number, label * _ONE_LABEL + prediction: any int32 of the store fits


class Confusion:
    """How often each of K classes was predicted as which output of the teacher."""

    def __init__(self, teacher_class: npt.NDArray[np.int64]):
        """`teacher_class` [K]: the output that shows each class; empty where none does, then nothing is counted."""
        self.expected = teacher_class
        self.rows: Ints = np.zeros(len(teacher_class), np.int64)  # judged rows of each class
        self.right: Ints = np.zeros(len(teacher_class), np.int64)  # of these, predicted as their class's output
        self._pairs: Counter[int] = Counter()

    def add(self, label: npt.NDArray[np.integer], prediction: npt.NDArray[np.integer]) -> None:
        """Count B rows; those without a prediction (-1), or with a label that is no class, are passed over."""
        judged = (prediction >= 0) & (label >= 0) & (label < len(self.expected))
        codes, counts = np.unique(label[judged].astype(np.int64) * _ONE_LABEL + prediction[judged], return_counts=True)
        labels, predictions = np.divmod(codes, _ONE_LABEL)
        np.add.at(self.rows, labels, counts)
        np.add.at(self.right, labels, counts * (predictions == self.expected[labels]))
        self._pairs.update(dict(zip(codes.tolist(), counts.tolist(), strict=True)))

    @property
    def judged(self) -> int:
        """Rows with a prediction."""
        return int(self.rows.sum())

    @property
    def correct(self) -> int:
        """Rows that were predicted as their class's output."""
        return int(self.right.sum())

    @property
    def top1(self) -> float:
        """The share of right predictions; NaN where there is none."""
        return self.correct / self.judged if self.judged else math.nan

    def worst(self, count: int) -> list[int]:
        """The classes with the smallest shares of right predictions, of those that were seen."""
        share = self.right / np.maximum(self.rows, 1)
        seen = np.flatnonzero(self.rows)
        return [int(k) for k in seen[np.argsort(share[seen], kind="stable")[:count]]]

    def moved(self) -> dict[int, int]:
        """Class -> the output that most of its rows are predicted as, where that is not the class's own."""
        usual: dict[int, tuple[int, int]] = {}
        for code, count in self._pairs.items():
            label, output = divmod(code, _ONE_LABEL)
            if 2 * count > self.rows[label]:
                usual[label] = output, count
        return {
            label: output
            for label, (output, _) in sorted(usual.items())
            if output != self.expected[label] and self.rows[label] >= LEAST_ROWS
        }


def is_permutation(moved: Mapping[int, int], classes: int) -> bool:
    """Whether half of so many classes or more are shown by another output, and hardly two of them by the same."""
    return 2 * len(moved) >= max(classes, 2) and len(set(moved.values())) >= 0.8 * len(moved)


def exchanged(confusion: Confusion) -> dict[int, int]:
    """Class -> class, where some have each other's predictions in a closed circle, such as two that are swapped."""
    class_of = {int(output): label for label, output in enumerate(confusion.expected)}
    moved = {label: class_of[output] for label, output in confusion.moved().items() if output in class_of}
    while open_ends := [label for label in moved if moved[label] not in moved or label not in moved.values()]:
        for label in open_ends:
            del moved[label]
    return moved


def is_chance(rows: Ints, right: Ints, outputs: int, level: float, *, all_seen: bool = False) -> bool:
    """Whether a teacher of so many outputs is, at this level of error, hardly better than a guess.

    `rows`, `right` [K]: as in `Confusion`. False while too few classes were seen, unless `all_seen`: no more will come.
    """
    seen = np.flatnonzero(rows)
    least = 1 if all_seen else min(len(rows), LEAST_CLASSES)
    if outputs < 2 or len(seen) < max(1, least):
        return False
    share = right[seen] / rows[seen]
    # of a mean over classes, as precise as one over so many rows (Kish's effective sample size)
    effective = len(seen) ** 2 / float((1 / rows[seen]).sum())
    floor = 1 / outputs + SLIGHT * (1 - 1 / outputs)
    return is_below(effective, float(share.mean()), floor, level)


def is_below(rows: float, share: float, bound: float, level: float) -> bool:
    """Whether a share of right ones among so many rows is below the bound, at this level of error.

    By Chernoff's bound on the binomial distribution, which holds for any number of rows.
    """
    if share >= bound:
        return False
    divergence = sum(p * math.log(p / q) for p, q in ((share, bound), (1 - share, 1 - bound)) if p > 0 and q > 0)
    return bound >= 1 or -rows * divergence < math.log(level)


def is_untrained(header: Header) -> bool:
    """Whether the teacher has random weights, of which no right predictions are expected."""
    return header.teacher.get("source") == "random" and "head" not in header.teacher  # a fitted head is trained


@dataclass(frozen=True)
class StoredPredictions:
    """The predictions in a store's finished shards."""

    header: Header
    confusion: Confusion
    unreadable: int  # rows whose image could not be decoded
    broken: int  # shards that cannot be read
    complete: bool  # every shard is in place and was read

    @property
    def are_chance(self) -> bool:
        """Whether they are hardly better than a guess, though the teacher has been trained."""
        rows, right = self.confusion.rows, self.confusion.right
        return not is_untrained(self.header) and is_chance(
            rows, right, self.header.outputs, END_LEVEL, all_seen=self.complete
        )


def read_predictions(path: Path, header: Header) -> StoredPredictions:
    """Read three columns of each finished shard, 9 bytes a row; StoreError is raised for none of them."""
    confusion, unreadable, broken = Confusion(header.teacher_class), 0, 0
    present = present_shards(path, header)
    for shard in present:
        try:
            label, prediction, status = _columns(path, header, shard)
        except ShardError:
            broken += 1
            continue
        unreadable += int((status != STATUS_OK).sum())
        confusion.add(label, np.where(status == STATUS_OK, prediction, -1))
    return StoredPredictions(
        header, confusion, unreadable, broken, complete=len(present) - broken == header.sharding.shards
    )


def _columns(path: Path, header: Header, shard: int) -> list[npt.NDArray[np.integer]]:
    names = ("label", "prediction", "status")
    with open_shard(path / shard_name(shard), header, shard, names) as file:
        return [file[name][()] for name in names]
