"""The regression finds the minimum of its loss, and its memory does not grow with the number of rows."""

import resource
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.multiprocessing import get_context

from extract.own_classes.fit import PENALTIES, choose_penalty, held_out_rows, row_weights
from extract.own_classes.regression import Regression
from extract.own_classes.spool import SMALLEST_OF_MEAN, Spool
from extract.teacher.heads import HeldOut

CPU = torch.device("cpu")
MOST_GROWTH_MB = 300


def clusters(counts: list[int], channels: int, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features around one random centre per class, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    centres = rng.normal(size=(len(counts), channels))
    return (centres[labels] + spread * rng.normal(size=(len(labels), channels))).astype(np.float32), labels


def spooled(folder: Path, rows: np.ndarray) -> Spool:
    spool = Spool(folder)
    for part in np.array_split(rows, 3):
        spool.append(part)
    return spool


def test_spool_gives_back_what_was_put_in(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    with spooled(tmp_path, rows) as spool:
        blocks = list(spool.blocks(8))
        assert [start for start, _ in blocks] == list(range(0, 50, 8))
        np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), rows)
        assert list(tmp_path.iterdir()) == []  # nothing is left, even by SIGKILL


def test_standardise(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(5, 2, size=(50, 4)).astype(np.float32)
    rows[:, 1] = 3.0
    with spooled(tmp_path, rows) as spool:
        mean, deviation = spool.standardise(8)
        found = np.concatenate([block for _, block in spool.blocks(9)])
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found, (rows - mean) / deviation, atol=1e-6)
    np.testing.assert_allclose(found[:, [0, 2, 3]].std(0), 1, rtol=1e-5)
    assert deviation[1] >= SMALLEST_OF_MEAN * 3
    assert not found[:, 1].any()


@pytest.mark.parametrize("l2", [1.0, 1e-2])
def test_the_minimum(l2: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end the derivative of the whole loss, by autograd in float64, is zero; blocks change nothing."""
    rows, labels = clusters([30, 20, 10], 6, 1.0)
    weights = row_weights(labels, np.arange(60) % 5 > 0, "balanced")
    monkeypatch.setattr("extract.own_classes.regression.BLOCK_BYTES", 1 << 10)
    with spooled(tmp_path, rows) as spool:
        regression = Regression(spool, torch.from_numpy(labels.astype(np.int64)), 3, CPU)
        found = regression.fit(regression.start(), weights, l2).requires_grad_()
        log_p, predicted = regression.predict(found.detach())
    logits = torch.from_numpy(rows).double() @ found[:, :-1].T + found[:, -1]
    target = torch.from_numpy(labels.astype(np.int64))
    loss = torch.nn.functional.cross_entropy(logits, target, reduction="none") @ weights.double()
    (loss + l2 / 2 * found[:, :-1].square().sum()).backward()  # type: ignore[no-untyped-call]
    assert found.grad is not None
    assert found.grad.abs().max() < 5e-5
    torch.testing.assert_close(log_p.double(), logits.detach().log_softmax(1)[range(60), target], atol=1e-5, rtol=1e-5)
    assert torch.equal(predicted, logits.argmax(1))


def test_a_fifth_of_every_class_is_held_out_by_the_names_alone() -> None:
    labels = np.repeat(np.arange(4), [50, 9, 2, 1]).astype(np.int32)
    keys = [f"{label}/{number}.jpg" for number, label in enumerate(labels.tolist())]
    held_out = held_out_rows(keys, labels)
    assert np.bincount(labels[held_out], minlength=4).tolist() == [10, 2, 1, 0]
    order = np.random.default_rng(0).permutation(len(keys))
    np.testing.assert_array_equal(held_out_rows([keys[row] for row in order], labels[order]), held_out[order])


def test_weights_of_images() -> None:
    labels = np.array([0, 0, 0, 1, 2, 2], np.int32)
    used = np.array([1, 1, 1, 1, 1, 0], bool)
    np.testing.assert_allclose(row_weights(labels, used, "none"), [0.2] * 5 + [0])
    np.testing.assert_allclose(row_weights(labels, used, "balanced"), [1 / 9] * 3 + [1 / 3] * 2 + [0], rtol=1e-6)


def test_balanced_weights_find_the_rare_class(tmp_path: Path) -> None:
    rows, labels = clusters([400, 20], 4, 2.0)
    shares = {}
    with spooled(tmp_path, rows) as spool:
        regression = Regression(spool, torch.from_numpy(labels.astype(np.int64)), 2, CPU)
        for weights in ("balanced", "none"):
            every = row_weights(labels, np.ones(len(labels), bool), weights)
            _, predicted = regression.predict(regression.fit(regression.start(), every, 1e-3))
            shares[weights] = float((predicted.numpy()[labels == 1] == 1).mean())
    assert shares["balanced"] > shares["none"] + 0.2


def test_the_strongest_penalty_that_does_as_well_as_the_best(tmp_path: Path) -> None:
    """Clear classes need no weak penalty; those that show in a small difference of two channels do."""
    rows, labels = clusters([60] * 4, 60, 0.3)
    common = np.random.default_rng(1).normal(size=240)
    hidden = np.stack([common, common + 0.2 * labels], 1)
    chosen = []
    for features in (rows, hidden.astype(np.float32)):
        with spooled(tmp_path, features) as spool:
            spool.standardise()
            regression = Regression(spool, torch.from_numpy(labels.astype(np.int64)), 4, CPU)
            chosen.append(choose_penalty(regression, labels, np.arange(240) % 5 == 0, "balanced"))
    assert chosen[0] == (PENALTIES[0], HeldOut(48, 4, 1.0, 1.0))
    assert chosen[1].l2 < 0.01


@pytest.mark.slow
def test_memory_stays_bounded(tmp_path: Path) -> None:
    """100,000 images of 1,280 features, half a gigabyte, in a process of its own."""
    with get_context("spawn").Pool(1) as pool:
        before_mb, after_mb, right = pool.apply(fit_many, (tmp_path,))
    assert after_mb - before_mb < MOST_GROWTH_MB
    assert right > 0.99


def fit_many(folder: Path) -> tuple[float, float, float]:
    torch.set_num_threads(2)
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(100, 1280)).astype(np.float32)
    labels = rng.integers(0, 100, 100_000).astype(np.int32)
    before_mb, started = peak_mb(), time.monotonic()
    with Spool(folder) as spool:
        for part in np.split(labels, 1000):
            spool.append(centres[part] + 4 * rng.normal(size=(len(part), 1280)).astype(np.float32))
        spool.standardise()
        regression = Regression(spool, torch.from_numpy(labels.astype(np.int64)), 100, CPU)
        every = row_weights(labels, np.ones(len(labels), bool), "balanced")
        found = regression.fit(regression.start(), every, 0.01)
        _, predicted = regression.predict(found)
    print(f"{time.monotonic() - started:.0f} s, {peak_mb() - before_mb:.0f} MB")
    return before_mb, peak_mb(), float((predicted.numpy() == labels).mean())


def peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
