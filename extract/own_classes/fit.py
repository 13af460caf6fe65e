"""Fit a head: features of all images, the L2 penalty by images held out, then a fit on all images.

Which images are held out depends on their keys alone: a fifth of every class, at least one of two. The penalties are
tried from strong to weak, each fit starting from the one before, until the loss on held-out images has grown twice. Of
these the strongest is taken whose accuracy is, within its standard error, as good as the best: a weaker one gives surer
probabilities, but worse maps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import xxhash

from extract.errors import ExtractError, ImagesError
from extract.images.image_list import ImageList
from extract.job.processes.signals import Stopped
from extract.job.progress import Progress
from extract.own_classes.features import PooledFeatures, spool_features
from extract.own_classes.regression import Regression
from extract.own_classes.spool import Spool
from extract.settings import FitOptions, TeacherSpec
from extract.teacher.heads import HeldOut, LinearHead, save_head

HELD_OUT = 0.2
PENALTIES = tuple(10 ** (1 - step / 2) for step in range(13))  # 10 to 1e-5, on standardised features
PENALTY_UNTESTED = 0.1  # where no image can be held out
PATIENCE = 2  # penalties without a smaller loss before the search ends
Mask = npt.NDArray[np.bool_]


class Choice(NamedTuple):
    """A penalty, and how the fit with it on the other images did on those held out."""

    l2: float
    held_out: HeldOut | None


def fit_head_file(
    images: ImageList,
    output: Path,
    spec: TeacherSpec,
    options: FitOptions,
    *,
    on_progress: Callable[[Progress], None],
    stop: Callable[[], bool],
    say: Callable[[str], None],
) -> LinearHead | None:
    """As `extract.fit_head`."""
    _check(images, output)
    pooled = PooledFeatures(spec)
    say(f"{len(images)} images, {len(images.class_names)} classes; {pooled.spec.name} on {pooled.device}")
    try:
        with Spool(output.absolute().parent) as spool:
            rows = spool_features(images, pooled, spool, options, on_progress=on_progress, stop=stop, say=say)
            keys = [images.keys[row] for row in rows]
            head = _fit(spool, keys, images.labels[rows], images, pooled, options, _stopper(stop), say)
    except Stopped:
        return None
    save_head(head, output)
    return head


def _check(images: ImageList, output: Path) -> None:
    """Before a pass that may take hours."""
    if len(images.class_names) < 2:
        raise ImagesError(f"{images.root}: expected at least two classes, found {len(images.class_names)}")
    if not output.absolute().parent.is_dir() or output.is_dir():
        raise ExtractError(f"-o {output}: expected a file in a folder that exists, found none; create the folder")


def _stopper(stop: Callable[[], bool]) -> Callable[[], None]:
    def check() -> None:
        if stop():
            raise Stopped("fitting")

    return check


def _fit(
    spool: Spool,
    keys: Sequence[str],
    labels: npt.NDArray[np.int32],
    images: ImageList,
    pooled: PooledFeatures,
    options: FitOptions,
    check: Callable[[], None],
    say: Callable[[str], None],
) -> LinearHead:
    counts = np.bincount(labels, minlength=len(images.class_names))
    if not counts.all():
        name = images.class_names[int(np.argmin(counts))]
        raise ImagesError(
            f"{images.root}: expected a readable image of every class, found none of {name!r}; repair them"
        )
    mean, deviation = (torch.from_numpy(values).double() for values in spool.standardise())
    regression = Regression(spool, torch.from_numpy(labels.astype(np.int64)), len(counts), pooled.device)
    held_out = held_out_rows(keys, labels)
    if held_out.any():
        choice = choose_penalty(regression, labels, held_out, options.class_weights, check)
    else:
        choice = Choice(PENALTY_UNTESTED, None)
    say(describe(choice, int((counts == 1).sum())))
    everything = row_weights(labels, np.ones(len(labels), bool), options.class_weights)
    parameters = regression.fit(regression.start(), everything, choice.l2, check).cpu()
    weight = parameters[:, :-1] / deviation
    return LinearHead(
        weight=weight.float(),
        bias=(parameters[:, -1] - weight @ mean).float(),
        class_names=tuple(images.class_names),
        backbone=pooled.backbone,
        images_digest=images.digest,
        l2=choice.l2,
        class_weights=options.class_weights,
        held_out=choice.held_out,
    )


def held_out_rows(keys: Sequence[str], labels: npt.NDArray[np.int32]) -> Mask:
    """Which of N images are held out, bool [N]: a fifth of every class, at least one of two, by the keys' digests."""
    chosen = np.zeros(len(keys), bool)
    order = sorted(range(len(keys)), key=lambda row: (int(labels[row]), xxhash.xxh3_64_intdigest(keys[row].encode())))
    for rows in _by_class(np.array(order), labels):
        if len(rows) > 1:
            chosen[rows[: max(1, round(HELD_OUT * len(rows)))]] = True
    return chosen


def _by_class(order: npt.NDArray[np.int64], labels: npt.NDArray[np.int32]) -> Iterator[npt.NDArray[np.int64]]:
    ends = np.flatnonzero(np.diff(labels[order])) + 1
    yield from np.split(order, ends)


def row_weights(labels: npt.NDArray[np.int32], used: Mask, class_weights: str) -> torch.Tensor:
    """float32 [N], 0 for rows that are not used, else the same for every image or, `balanced`, for every class."""
    counts = np.bincount(labels[used])
    each = used / np.maximum(counts[labels.clip(max=len(counts) - 1)], 1) if class_weights == "balanced" else used * 1.0
    return torch.from_numpy((each / each.sum()).astype(np.float32))


def choose_penalty(
    regression: Regression,
    labels: npt.NDArray[np.int32],
    held_out: Mask,
    class_weights: str,
    check: Callable[[], None] = lambda: None,
) -> Choice:
    """The strongest penalty of those tried that is as accurate as the best; at least one image is held out."""
    seen = row_weights(labels, ~held_out, class_weights)
    unseen = row_weights(labels, held_out, class_weights).double()
    parameters, losses, tried = regression.start(), list[float](), list[Choice]()
    for l2 in PENALTIES:
        parameters = regression.fit(parameters, seen, l2, check)
        log_p, predicted = (values.cpu() for values in regression.predict(parameters))
        losses.append(-float(log_p.double() @ unseen))
        tried.append(Choice(l2, _judge(labels, predicted.numpy(), held_out)))
        if len(losses) - losses.index(min(losses)) > PATIENCE:
            break
    return _strongest(tried, class_weights)


def _strongest(tried: Sequence[Choice], class_weights: str) -> Choice:
    """The first whose accuracy is at most one standard error below the best."""

    def accuracy(choice: Choice) -> float:
        assert choice.held_out is not None
        return choice.held_out.balanced if class_weights == "balanced" else choice.held_out.top1

    best = max(tried, key=accuracy)
    assert best.held_out is not None
    error = (accuracy(best) * (1 - accuracy(best)) / best.held_out.images) ** 0.5
    return next(choice for choice in tried if accuracy(choice) >= accuracy(best) - error)


def _judge(labels: npt.NDArray[np.int32], predicted: npt.NDArray[np.int64], held_out: Mask) -> HeldOut:
    labels, right = labels[held_out], predicted[held_out] == labels[held_out]
    counts = np.bincount(labels)
    shares = np.bincount(labels, right)[counts > 0] / counts[counts > 0]
    return HeldOut(len(labels), len(shares), round(float(right.mean()), 4), round(float(shares.mean()), 4))


def describe(choice: Choice, lonely: int) -> str:
    """What was chosen, and by what. `lonely`: how many classes have one image."""
    found = choice.held_out
    if found is None:
        return f"L2 penalty {choice.l2:g}, not tested: every class has one image, so none could be held out"
    left_out = f"; {lonely} classes with one image are not among these" if lonely else ""
    return (
        f"L2 penalty {choice.l2:.2g}; on {found.images} images held out to choose it: top-1 {100 * found.top1:.1f} %, "
        f"mean over {found.classes} classes {100 * found.balanced:.1f} %{left_out}"
    )
