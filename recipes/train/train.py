"""The paper's recipe, whole: any student of timm's, on one device or several, resumed after the last whole epoch.

    python -m recipes.train.train IMAGES MAPS --val VALIDATION --out runs/deit-small
    torchrun --nproc-per-node 8 -m recipes.train.train IMAGES MAPS --val VALIDATION --out runs/deit-small

IMAGES is a class folder, or a tar of one, MAPS the store that `tokenmix extract IMAGES MAPS` left. The same command
goes on with a run that was stopped, on a CPU in one process bit for bit; sums of a GPU or of several processes may
differ in their last bits. recipes/train/tables.md has a command for each row of the paper's tables;
recipes/train/minimal.py is the smallest loop, to copy from.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import click
import torch
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3, random_seed
from torch.nn.parallel import DistributedDataParallel

import recipes.small_students  # noqa: F401 -- known to timm by this
from extract.errors import ImagesError
from recipes.train.checkpoint import (
    LAST,
    Row,
    best_of,
    identity,
    load_last,
    save_state,
    write_log,
    write_settings,
)
from recipes.train.data import TrainingData, find_classes, open_training, open_validation
from recipes.train.epoch import Run, train_epoch
from recipes.train.processes import Processes, join_processes
from recipes.train.settings import BASE_BATCH, Settings, TrainingError, setting_options
from recipes.train.students import Student, create_student
from store import StoreError
from tokenmix_loader import MapStore, TokenLabelLoss, UntraceableTransform

PATH: Final = click.Path(exists=True, path_type=Path)
FOLDER: Final = click.Path(exists=True, file_okay=False, path_type=Path)


def train(
    images: Path, maps: Path, out: Path, settings: Settings, *, val: Path | None = None, class_map: Path | None = None,
    workers: int = 4, device: str | None = None, say: Callable[[str], object] = click.echo,
) -> list[Row]:  # fmt: skip
    """Train, or go on, in the folder `out`; returns a row for each epoch.

    Raises TrainingError for settings, images, maps and a folder that do not go together and for a loss that is no
    number any more, StoreError for a damaged store, OSError for an image that cannot be read.
    """
    with join_processes(device) as processes:
        tell = say if processes.rank == 0 else _silent
        store = MapStore(maps)
        classes = find_classes(store, class_map, settings)
        random_seed(settings.seed)
        student = create_student(settings, classes.count)
        data = open_training(images, store, classes, student, settings, processes, workers)
        validation = open_validation(val, classes, student, settings, processes, workers) if val else None
        run = assemble(settings, processes, student, data, validation)
        expected = identity(settings, store.header.content_digest, list(classes.outputs), processes.count)
        history = resume(run, out, expected)
        if processes.rank == 0:
            out.mkdir(parents=True, exist_ok=True)
            write_settings(out, expected)
            write_log(out, history)
        _introduce(run, history, tell)
        return _train(run, out, expected, history, tell)


def assemble(settings: Settings, processes: Processes, student: Student, data: TrainingData, validation: Any) -> Run:
    """A run at its beginning."""
    layout = torch.channels_last if settings.channels_last else torch.preserve_format
    network = student.network.to(processes.device, memory_format=layout)  # type: ignore[call-overload]
    ema = settings.ema_decay and ModelEmaV3(student.model, decay=settings.ema_decay)
    optimizer = create_optimizer_v2(student.model, opt="adamw", lr=settings.peak_lr, weight_decay=settings.weight_decay)
    scheduler, _ = create_scheduler_v2(
        optimizer, num_epochs=settings.epochs, warmup_epochs=warmup_epochs(settings), min_lr=settings.min_lr,
        warmup_lr=settings.warmup_lr, step_on_epochs=False, updates_per_epoch=data.batches.updates,
    )  # fmt: skip
    if processes.count > 1:
        ids = [processes.device] if processes.device.type == "cuda" else None
        network = DistributedDataParallel(network, device_ids=ids)
    return Run(settings, processes, student, network, ema, loss_of(settings), optimizer, scheduler, data, validation)


def loss_of(settings: Settings) -> Any:
    """Of logits and dense targets; of tokenlabeling also of the tokens' logits."""
    if settings.by_token:
        return TokenLabelLoss()
    return BinaryCrossEntropy(smoothing=0) if settings.loss == "bce" else SoftTargetCrossEntropy()


def warmup_epochs(settings: Settings) -> int:
    """As set, but half of all epochs at most."""
    return min(settings.warmup_epochs, settings.epochs // 2)


def resume(run: Run, out: Path, expected: dict[str, Any]) -> list[Row]:
    """Take up the state of the last whole epoch, if there is one; returns the rows so far.

    Learning rates, masks and all other chance follow from the epoch's number, so that no more has to be kept.
    """
    state = load_last(out, expected)
    history = state["history"] if state else []
    # Numbers are equal if the square of their sum is as many times the sum of their squares.
    done = run.processes.summed(torch.tensor([len(history), len(history) ** 2], device=run.processes.device))
    if done[0] ** 2 != done[1] * run.processes.count:
        raise TrainingError(f"{out / LAST}: expected the same file in all processes; put --out where all can read it")
    if state:
        run.student.model.load_state_dict(state["state_dict"])
        run.optimizer.load_state_dict(state["optimizer"])
        if run.ema:
            run.ema.module.load_state_dict(state["state_dict_ema"])
    return list(history)


def _train(
    run: Run, out: Path, expected: dict[str, Any], history: list[Row], say: Callable[[str], object]
) -> list[Row]:
    started, before = time.monotonic(), len(history)
    for epoch in range(before, run.settings.epochs):
        row = train_epoch(run, epoch)
        best = max((found for found in map(best_of, history) if found is not None), default=-1.0)
        history.append(row)
        if run.processes.rank == 0:
            save_state(out, _state(run, expected, history), _weights_if_better(run, row, best))
            write_log(out, history)
        each = (time.monotonic() - started) / (epoch + 1 - before)
        say(_line(run.settings, row, each * (run.settings.epochs - epoch - 1)))
    run.processes.wait()  # the last file is there when any process returns
    return history


def _state(run: Run, expected: dict[str, Any], history: list[Row]) -> dict[str, Any]:
    averaged = {"state_dict_ema": run.ema.module.state_dict()} if run.ema else {}
    return {
        "arch": run.settings.model, "epoch": len(history) - 1, "settings": expected, "history": history,
        "state_dict": run.student.model.state_dict(), "optimizer": run.optimizer.state_dict(), **averaged,
    }  # fmt: skip


def _weights_if_better(run: Run, row: Row, before: float) -> dict[str, torch.Tensor] | None:
    found = best_of(row)
    if found is None or found <= before:
        return None
    model = run.student.model if row["top1"] == found else run.ema.module
    return model.state_dict()  # type: ignore[no-any-return]


def _introduce(run: Run, history: list[Row], say: Callable[[str], object]) -> None:
    settings, count = run.settings, run.processes.count
    say(f"student: {run.student.words}")
    origin = f"{settings.lr_base:g} at {BASE_BATCH}, scaled" if settings.lr is None else "as --lr says"
    say(
        f"training: {settings.batch_size} images per update in {count} process{'es' * (count > 1)}, "
        f"{run.data.batches.updates} updates per epoch; learning rate {settings.peak_lr:g} ({origin}) after "
        f"{warmup_epochs(settings)} warm-up epochs, then a cosine to {settings.min_lr:g}"
    )
    if history:
        say(f"going on behind epoch {len(history) - 1} of {settings.epochs}")


def _line(settings: Settings, row: Row, left: float) -> str:
    parts = [f"epoch {row['epoch']}/{settings.epochs}: loss {row['loss']:.4f}"]
    for name, value in (("top-1", row["top1"]), ("averaged", row["ema_top1"])):
        if value is not None:
            parts.append(f"{name} {value:.2%}")
    parts.append(f"{row['images_per_second']:.0f} images/s")
    return ", ".join([*parts, f"{timedelta(seconds=round(left))} left"])


def _silent(_: str) -> None:
    """Only the process of rank 0 prints."""


@click.command(help="Train a student on IMAGES with TokenMix targets from MAPS; the same command goes on.")
@click.argument("images", type=PATH)
@click.argument("maps", type=FOLDER)
@setting_options
@click.option("--val", type=PATH, help="Images to validate on after each epoch.")
@click.option("--class-map", type=PATH, help="Which output each class is: names in order, or rows name,output.")
@click.option("--workers", type=click.IntRange(min=0), default=4, show_default=True, help="Of each process.")
@click.option("--device", help="Default: the GPU, if there is one.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default="runs/student", show_default=True)
def main(
    images: Path, maps: Path, val: Path | None, class_map: Path | None, workers: int, device: str | None, out: Path,
    **settings: Any,
) -> None:  # fmt: skip
    """Train, with a user's mistakes as messages."""
    try:
        train(images, maps, out, Settings(**settings), val=val, class_map=class_map, workers=workers, device=device)
    except (TrainingError, ImagesError, UntraceableTransform) as error:
        raise click.ClickException(str(error)) from error
    except (StoreError, OSError) as error:  # of one in a loading process torch gives the traceback, and it comes last
        raise click.ClickException((str(error).strip() or type(error).__name__).splitlines()[-1]) from error
    except torch.OutOfMemoryError as error:
        raise click.ClickException(
            f"expected memory for an update of {settings['batch_size']} images in {settings['accumulate']} parts per "
            f"process, found {error}; give a higher --accumulate, and the same batch has more and smaller parts"
        ) from error


if __name__ == "__main__":
    main()
