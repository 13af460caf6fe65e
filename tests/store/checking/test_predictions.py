"""When predictions are hardly better than a guess, and what else of them points at a wrong class order."""

import math
from pathlib import Path

import numpy as np
import pytest

from store import Header, ShardWriter, create_store
from store.checking.predictions import (
    Confusion,
    exchanged,
    is_below,
    is_chance,
    is_permutation,
    read_predictions,
)
from store.format.rows import RowBatch
from store.spec import Json

LIVE = 1e-4


def confusion_of(label: list[int], prediction: list[int], outputs: list[int]) -> Confusion:
    found = Confusion(np.array(outputs, np.int64))
    for a, b in zip(label, prediction, strict=True):  # batch by batch or at once is the same
        found.add(np.array([a]), np.array([b]))
    return found


def rows_of(share: float, classes: int, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    rows = np.full(classes, per_class)
    return rows, np.round(rows * share).astype(np.int64)


def test_counts() -> None:
    found = confusion_of([0, 0, 1, 1, 2, 9, 1], [7, 8, 8, 7, -1, 7, 8], [7, 8, 9])
    assert (found.rows.tolist(), found.right.tolist()) == ([2, 3, 0], [1, 2, 0])
    assert (found.judged, found.correct, found.top1) == (5, 3, 0.6)
    assert found.worst(9) == [0, 1]
    assert math.isnan(Confusion(np.zeros(0, np.int64)).top1)


@pytest.mark.parametrize(
    ("share", "classes", "chance"),
    [(0.024, 1000, True), (0.15, 1000, True), (0.25, 1000, False), (0.8, 1000, False), (0.1, 10, True),
     (0.24, 10, True), (0.35, 10, False), (0.5, 2, True), (0.7, 2, False)],
)  # fmt: skip
def test_near_chance(share: float, classes: int, chance: bool) -> None:
    """24 times as good as drawing among 1000 outputs is no useful teacher either."""
    assert is_chance(*rows_of(share, classes, 4000 // classes * 5), classes, LIVE) == chance


def test_few_rows_and_few_classes_say_nothing_yet() -> None:
    assert not is_chance(*rows_of(0, 10, 1), 10, LIVE)
    assert is_chance(*rows_of(0, 10, 4), 10, LIVE)
    in_order = np.zeros(1000, np.int64)
    in_order[:4] = 1300  # class folders, read in order: these four may be difficult
    assert not is_chance(in_order, 0 * in_order, 1000, LIVE)
    assert is_chance(in_order, 0 * in_order, 1000, LIVE, all_seen=True)
    in_order[4] = 60
    assert is_chance(in_order, 0 * in_order, 1000, LIVE)
    assert not is_chance(np.zeros(0, np.int64), np.zeros(0, np.int64), 0, LIVE, all_seen=True)
    assert not is_chance(np.array([50]), np.array([0]), 1, LIVE, all_seen=True)


def test_the_largest_class_alone_is_no_knowledge() -> None:
    """A teacher that always says the same has a top-1 of 96 % here."""
    rows = np.array([9600, 200, 200])
    assert is_chance(rows, np.array([9600, 0, 0]), 3, LIVE)
    assert not is_chance(rows, np.array([9600, 140, 140]), 3, LIVE)


def test_bound_is_exact_for_none_right_and_holds_else() -> None:
    assert is_below(44, 0.0, 0.2, 0.8**44 * 1.001)
    assert not is_below(44, 0.0, 0.2, 0.8**44 * 0.999)
    binomial = sum(math.comb(50, k) * 0.3**k * 0.7 ** (50 - k) for k in range(6))  # P(at most 5 of 50)
    assert not is_below(50, 0.1, 0.3, binomial)
    assert not is_below(10**6, 0.3, 0.3, 0.5)
    assert is_below(1, 0.5, 1.0, 1e-9)


def test_a_permutation() -> None:
    turned = confusion_of([c for c in range(6) for _ in range(9)], [(c + 1) % 6 for c in range(6) for _ in range(9)],
                          [*range(6)])  # fmt: skip
    assert turned.moved() == {c: (c + 1) % 6 for c in range(6)}
    assert is_permutation(turned.moved(), 6)
    assert exchanged(turned) == turned.moved()
    collapsed = confusion_of([c for c in range(6) for _ in range(9)], [0] * 54, [*range(6)])
    assert not is_permutation(collapsed.moved(), 6)
    assert exchanged(collapsed) == {}


def test_two_swapped_classes_among_right_ones() -> None:
    wrong = {1: 2, 2: 1, 4: 0, 5: 1}  # 4 and 5 are taken for others that are not taken for them
    labels = [c for c in range(6) for _ in range(9)]
    found = confusion_of(labels, [wrong.get(c, c) for c in labels], [*range(6)])
    assert exchanged(found) == {1: 2, 2: 1}
    few = confusion_of([0] * 4 + [1] * 4, [1] * 4 + [0] * 4, [0, 1])
    assert exchanged(few) == {}


def test_a_store_with_an_unreadable_row_and_a_broken_shard(tmp_path: Path) -> None:
    dataset: dict[str, Json] = {"root_name": "i", "class_names": ["a", "b"], "teacher_class": [1, 0], "digest": ""}
    header = Header("label", {"classes": 2}, {}, (1, 1), "float16", 12, 4, dataset, {})
    create_store(tmp_path / "m", header)
    for shard in range(2):
        writer = ShardWriter(tmp_path / "m", header, shard)
        writer.append(
            RowBatch(
                payload={"label_logit": np.zeros((4, 1, 1), np.float16)},
                label=np.array([0, 0, 1, 1], np.int32),
                prediction=np.array([1, 0, 0, -1], np.int32),
                size=np.array([[1, 1]] * 3 + [[0, 0]], np.int32),
                view=np.array([[0, 0, 1, 1]] * 3 + [[0] * 4], np.float32),
                status=np.array([0, 0, 0, 1], np.uint8),
                key=[f"{shard}-{row}" for row in range(4)],
                error=["", "", "", "torn"],
            )
        )
        writer.publish()
    (tmp_path / "m" / "shard-00002.h5").write_bytes(b"")
    found = read_predictions(tmp_path / "m", header)
    assert (found.unreadable, found.broken, found.complete) == (2, 1, False)
    assert (found.confusion.rows.tolist(), found.confusion.right.tolist()) == ([4, 2], [2, 2])
