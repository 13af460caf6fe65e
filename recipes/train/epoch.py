"""One pass over the training images, and over those of the validation."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from timm.utils import distribute_bn, random_seed
from tqdm import tqdm

from recipes.train.checkpoint import LAST, Row
from recipes.train.data import TrainingData
from recipes.train.processes import Processes
from recipes.train.settings import Settings, TrainingError
from recipes.train.students import Student


@dataclass
class Run:
    """What a training consists of."""

    settings: Settings
    processes: Processes
    student: Student
    network: Any  # the student's, in DistributedDataParallel where there are several processes
    ema: Any
    loss: Any
    optimizer: Any
    scheduler: Any
    data: TrainingData
    validation: Any


def train_epoch(run: Run, epoch: int) -> Row:
    """All batches once, then the validation. Raises TrainingError where the loss is no number."""
    settings, started = run.settings, time.monotonic()
    _seed_epoch(settings.seed, epoch, run.processes.rank)
    mixed = not settings.mixup_off_epoch or epoch < settings.mixup_off_epoch
    batches = run.data.of_epoch(epoch, mixed=mixed)
    total = torch.zeros((), dtype=torch.float64, device=run.processes.device)
    update = epoch * run.data.batches.updates
    run.scheduler.step_update(update)
    run.network.train()
    for number, (images, targets) in enumerate(_shown(batches, epoch, run.processes.rank), 1):
        complete = number % settings.accumulate == 0
        with nullcontext() if complete or run.processes.count == 1 else run.network.no_sync():
            loss = _loss(run, images, targets)
            (loss / settings.accumulate).backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
        if complete:
            lr, update = run.optimizer.param_groups[0]["lr"], update + 1
            _update(run, update)
    mean = float(run.processes.summed(total)) / (len(batches) * run.processes.count)
    if not math.isfinite(mean):
        raise TrainingError(
            f"epoch {epoch}: loss: expected a number, found {mean}; {LAST} holds the epoch before: begin anew with a "
            "smaller --lr, with --clip-grad 1 or --precision float32"
        )
    seconds = time.monotonic() - started
    top1, ema_top1 = evaluate(run)
    speed = run.data.batches.updates * settings.batch_size / seconds
    return {
        "epoch": epoch, "lr": lr, "loss": mean, "top1": top1, "ema_top1": ema_top1,
        "images_per_second": round(speed, 1),        "seconds": round(time.monotonic() - started, 2),
    }  # fmt: skip


def _loss(run: Run, images: torch.Tensor, targets: Any) -> torch.Tensor:
    logits = _logits(run, run.network, images)
    loss: torch.Tensor = run.loss(*(part.float() for part in logits), targets)
    return loss


def _logits(run: Run, network: Any, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    kind, chosen = run.processes.device.type, run.settings.precision
    if run.settings.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(kind, torch.bfloat16, enabled=chosen == "bfloat16" or (chosen == "auto" and kind == "cuda")):
        logits = network(images)
    return logits if isinstance(logits, tuple) else (logits,)


def _update(run: Run, number: int) -> None:
    """Of the weights; `number` counts from 1."""
    if run.settings.clip_grad:
        torch.nn.utils.clip_grad_norm_(run.student.model.parameters(), run.settings.clip_grad)
    run.optimizer.step()
    run.optimizer.zero_grad()
    run.scheduler.step_update(number)
    if run.ema:
        run.ema.update(run.student.model, number)


@torch.no_grad()
def evaluate(run: Run) -> tuple[float | None, float | None]:
    """Top-1 on all of the validation, of the weights and of their average; None where there is no such thing."""
    models = [run.student.model] + ([run.ema.module] if run.ema else [])
    if run.processes.count > 1:
        for model in models:  # statistics of batch normalisation differ from process to process
            distribute_bn(model, run.processes.count, reduce=True)
    if run.validation is None:
        return None, None
    hits = torch.zeros(3, dtype=torch.float64, device=run.processes.device)  # of each model, and images
    for model in models:
        model.eval()
    for images, labels in run.validation:
        images, labels = images.to(run.processes.device), labels.to(run.processes.device)
        for place, model in enumerate(models):
            hits[place] += (_logits(run, model, images)[0].argmax(dim=1) == labels).sum()
        hits[2] += len(labels)
    *right, seen = run.processes.summed(hits).tolist()
    top1 = [found / seen for found in right]
    return top1[0], top1[1] if run.ema else None


def _seed_epoch(seed: int, epoch: int, rank: int) -> None:
    """What the training itself draws, dropout and erasing; an epoch's follows from its number alone."""
    drawn = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    random_seed(drawn >> 1, rank)  # which adds the rank, and NumPy takes seeds below 2 ** 32


def _shown(batches: Any, epoch: int, rank: int) -> Any:
    """With a bar, on a terminal."""
    return tqdm(batches, f"epoch {epoch}", leave=False, disable=True if rank else None)
