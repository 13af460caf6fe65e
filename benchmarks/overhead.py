"""What maps cost during training: CPU time per sample, alignment against dense RoIAlign, and the step's time.

    python -m benchmarks.overhead            # 8 minutes on a CPU; writes benchmarks/results/overhead.json
    python -m benchmarks.overhead --only masks   # one section of it, the others stay
    python -m benchmarks.overhead --model deit_small_patch16_224 --batch-size 256 --batch-size 1024   # on a GPU

CPU time is the process's own, so that a busy machine counts less; what is compared takes turns, and medians are kept.
Ratios of steps are medians of the ratios within a round, with the 95 % interval of that median by order statistics.
The pipeline is what a worker of timm does for a sample: decode a JPEG of 500 x 375 px, DeiT's augmentation, collate
with CutMix. "By maps" is all that TokenMix does besides, in batches of 128 that are all mixed by TokenMix. Kinds of
masks are compared by all that `TokenMixCollate` does: reading, masks, targets and pixels.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import FastCollateMixup, ImageDataset, Mixup, create_transform
from timm.loss import SoftTargetCrossEntropy
from torchvision.ops import roi_align

from benchmarks.geometry import seed_all
from benchmarks.read import machine, write_store
from recipes.context_digits.scene import sources
from tokenmix_loader import MapStore, MapTarget, PuzzleSettings, TokenMix, TokenMixCollate, align, evidence, trace
from tokenmix_loader.batch import ANY_STORE
from tokenmix_loader.compiled import door
from tokenmix_loader.mixing.collate import collate_targets
from tokenmix_loader.mixing.optimal.blocks import divisors
from tokenmix_loader.mixing.recipe import Recipe
from tokenmix_loader.mixing.settings import MixSettings
from tokenmix_loader.scoring.evidence import normalise

CLASSES, BATCH, ROWS = 1000, 128, 20_000
GRID = (14, 14)
AUGMENT = {"auto_augment": "rand-m9-mstd0.5", "interpolation": "random", "use_prefetcher": True}
MIXUP: dict[str, Any] = {"mixup_alpha": 0.0, "cutmix_alpha": 1.0, "num_classes": CLASSES}
Timer = Callable[[], float]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--model", default="test_vit")
    parser.add_argument("--batch-size", type=int, action="append", help="of the steps; repeatable; default: 64 and 8")
    parser.add_argument("--steps", type=int, default=60, help="of each kind at 64 samples, more of smaller batches")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", choices=("cpu", "masks", "align", "steps"), help="leave the others as they were")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "overhead.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_store(Path(folder) / "maps", np.random.default_rng(0), ROWS, shards=8)
        store = MapStore(Path(folder) / "maps")
        sections: dict[str, Callable[[], Any]] = {
            "cpu": lambda: cpu_costs(Path(folder), store, options.rounds),
            "masks": lambda: mask_costs(Path(folder), store, options.rounds),
            "align": lambda: align_costs(store, options.rounds),
            "steps": lambda: [
                step_ratios(
                    store, options.model, size, options.steps * max(1, 64 // size), torch.device(options.device)
                )
                for size in options.batch_size or [64, 8]
            ],
        }
        kept = options.only and options.out.exists()
        result: dict[str, Any] = json.loads(options.out.read_text(encoding="utf-8")) if kept else {}
        result |= {name: run() for name, run in sections.items() if options.only in (None, name)}
    where = machine() | accelerator(options.device)
    if options.only:  # the other sections may be another machine's
        result["machine_of"] = result.get("machine_of", {}) | {options.only: where}
    else:
        result["machine"] = where
    print(json.dumps(result, indent=1))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def take_turns(functions: dict[str, Callable[[], object]], rounds: int, timer: Timer) -> dict[str, list[float]]:
    """Seconds of every call, one of each function per round, in random order."""
    rng, seconds = np.random.default_rng(0), {name: list[float]() for name in functions}
    for function in functions.values():
        function()  # warm
    for _ in range(rounds):
        for name in rng.permutation(list(functions)).tolist():
            started = timer()
            functions[name]()
            seconds[name].append(timer() - started)
    return seconds


def medians_us(seconds: dict[str, list[float]], per: int) -> dict[str, float]:
    """Median time in us per sample, of calls that handle `per` samples each."""
    return {name: 1e6 * statistics.median(found) / per for name, found in seconds.items()}


def cpu_costs(folder: Path, store: MapStore, rounds: int) -> dict[str, Any]:
    """CPU time in us per sample: timm's pipeline, and what maps add to it.

    All take turns, so what maps add meets caches that are full of something else, as in a worker.
    """
    write_photographs(folder / "photographs", count=BATCH)
    images = ImageDataset(str(folder / "photographs"), transform=create_transform(224, is_training=True, **AUGMENT))
    samples = [images[i] for i in range(BATCH)]
    targets = some_targets(BATCH)
    rows = targets.row.numpy()
    mapped = with_targets([image for image, _ in samples], targets)
    pixels = torch.zeros(BATCH, 3, 224, 224, dtype=torch.uint8)
    timm_s, ours = FastCollateMixup(**MIXUP), TokenMixCollate(store, GRID, **MIXUP)
    recipe, rng = Recipe(CLASSES, GRID, MixSettings(mixup_alpha=0)), np.random.default_rng(0)

    def read() -> None:
        store.read(rows)
        store.views(rows)

    def score() -> torch.Tensor | Any:
        return recipe.targets(recipe.draw(rng, pixels), store, targets)

    functions: dict[str, Callable[[], object]] = {
        "decoding and augmentation": lambda: [images[i] for i in range(BATCH)],
        "timm's collate with CutMix": lambda: timm_s(samples),
        "TokenMixCollate": lambda: ours(mapped),
        "reading": read,
        "reading, alignment, masks, targets": score,
        "the same without numba": without_numba(score),
        "collating targets": lambda: collate_targets([target for _, target in mapped]),
    }
    cost = medians_us(take_turns(functions, rounds, time.process_time), BATCH) | {"tracing": tracing_us(rounds)}
    pipeline = cost["decoding and augmentation"] + cost["timm's collate with CutMix"]
    scored = "reading, alignment, masks, targets"
    parts = {
        "reading_share": ["reading"],
        "scored_share": [scored],
        "scored_share_without_numba": ["the same without numba"],
        "by_maps_share": [scored, "collating targets", "tracing"],
    }
    whole = cost["decoding and augmentation"] + cost["tracing"] + cost["TokenMixCollate"]
    return {
        "us_per_sample": {name: round(each, 3) for name, each in cost.items()},
        "pipeline_us": round(pipeline, 1),
        **{name: round(sum(cost[part] for part in of) / pipeline, 6) for name, of in parts.items()},
        "whole_ratio": round(whole / pipeline, 4),
    }


def mask_costs(folder: Path, store: MapStore, rounds: int) -> dict[str, Any]:
    """CPU time in us per sample of `TokenMixCollate` with every kind of mask, and as a share of decode + augmentation.

    Puzzle Mix draws one of the block counts for each batch; here each is measured, and the mean counts. The maps are
    noise, which costs more than real ones: where objects are compact, fewer ways are left to cut.
    """
    write_photographs(folder / "for masks", count=BATCH)
    images = ImageDataset(str(folder / "for masks"), transform=create_transform(224, is_training=True, **AUGMENT))
    mapped = with_targets([images[i][0] for i in range(BATCH)], some_targets(BATCH))
    kinds: dict[str, dict[str, Any]] = {kind: {"kind": kind} for kind in ("block", "attentive", "saliencymix", "comix")}
    puzzles = {f"puzzle, {b} x {b}": {"kind": "puzzle", "puzzle": PuzzleSettings(blocks=b)} for b in divisors(GRID)}
    collates = {name: TokenMixCollate(store, GRID, **MIXUP, **chosen) for name, chosen in (kinds | puzzles).items()}
    functions: dict[str, Callable[[], object]] = {
        "decoding and augmentation": lambda: [images[i] for i in range(BATCH)],
        **{name: partial(collate, mapped) for name, collate in collates.items()},
        "puzzle, 14 x 14, without numba": without_numba(partial(collates["puzzle, 14 x 14"], mapped)),
    }
    cost = medians_us(take_turns(functions, rounds, time.process_time), BATCH)
    cost["puzzle"] = statistics.mean(cost[name] for name in puzzles)
    return {
        "us_per_sample": {name: round(each, 1) for name, each in cost.items()},
        "share_of_decoding_and_augmentation": {
            name: round(each / cost["decoding and augmentation"], 4)
            for name, each in cost.items()
            if name != "decoding and augmentation"
        },
    }


def without_numba(function: Callable[[], object]) -> Callable[[], object]:
    """The same by tensors, as where numba is not installed."""

    def run() -> object:
        with mock.patch.object(door, "_load", return_value=None):
            return function()

    return run


def write_photographs(folder: Path, count: int) -> None:
    """JPEGs of ImageNet's usual size."""
    photographs = sources("test").photographs
    (folder / "class").mkdir(parents=True)
    for i in range(count):
        photographs[i % len(photographs)].resize((500, 375)).save(folder / "class" / f"{i:04d}.jpg", quality=92)


def tracing_us(rounds: int, images: int = 32) -> float:
    """What tracing adds to a transform: images are so small that their pixels cost nothing; draws are the same.

    A few images at a time, so that most pairs of runs meet the machine in the same state.
    """
    tiny = Image.new("RGB", (16, 16))
    transform = create_transform(16, is_training=True, **AUGMENT)
    traced = trace(transform)

    def plain() -> tuple[Any, int]:
        return transform(tiny), 0

    def with_place() -> tuple[Any, MapTarget]:
        image, place = traced.placed(tiny)
        return image, MapTarget(0, 0, place, 0)  # type: ignore[arg-type]

    added = []
    for seed in range(40 * rounds):
        seconds = {}
        for sample in (plain, with_place) if seed % 2 else (with_place, plain):
            seed_all(0, seed)
            started = time.process_time()
            for _ in range(images):
                sample()
            seconds[sample] = time.process_time() - started
        added.append(seconds[with_place] - seconds[plain])
    return 1e6 * statistics.median(added) / images


def with_targets(images: Sequence[torch.Tensor] | torch.Tensor, targets: MapTarget) -> list[tuple[Any, MapTarget]]:
    """Samples as `MapDataset` makes them."""
    parts = targets.label.tolist(), targets.row.tolist(), targets.place.numpy(), targets.store.tolist()
    return list(zip(images, map(MapTarget, *parts), strict=True))


def some_targets(batch: int, seed: int = 0) -> MapTarget:
    """Crops as DeiT's augmentation makes them: one in four turned or sheared."""
    rng = np.random.default_rng(seed)
    seed_all(seed, batch)
    traced = trace(create_transform(224, is_training=True, **AUGMENT))
    places = [traced.placed(Image.new("RGB", (500, 375)))[1] for _ in range(batch)]
    rows = torch.from_numpy(rng.integers(ROWS, size=batch))
    store = torch.full_like(rows, ANY_STORE)
    return MapTarget(rows % CLASSES, rows, torch.from_numpy(np.stack(places)), store)  # the labels of `write_store`


def align_costs(store: MapStore, rounds: int, batch: int = BATCH, batches: int = 8) -> dict[str, float]:
    """CPU time in us per sample of `align` with `refine`, and of RoIAlign over all classes, as published.

    There, five logits per token are first scattered into a map of every class. A turn is several batches.
    """
    given = [some_targets(batch, seed) for seed in range(batches)]
    rows = [targets.row.numpy() for targets in given]
    maps = [normalise(evidence(store.read(some))) for some in rows]
    views = [torch.from_numpy(store.views(some)) for some in rows]
    top = torch.rand(batch, 5, *maps[0].shape[1:])
    classes = torch.randint(CLASSES, top.shape)
    boxes = [torch.tensor([[2.0, 3, 12, 15]])] * batch

    def published() -> None:
        for _ in given:
            dense = torch.zeros(batch, CLASSES, *top.shape[2:]).scatter_(1, classes, top)
            roi_align(dense, boxes, GRID, aligned=True)

    def ours() -> None:
        for its_maps, its_views, targets in zip(maps, views, given, strict=True):
            align(its_maps, its_views, targets.affine, GRID, bounds=targets.bounds, refined=True)

    functions: dict[str, Callable[[], object]] = {
        "dense RoIAlign": published,
        "align": ours,
        "align without numba": without_numba(ours),
    }
    found = medians_us(take_turns(functions, rounds, time.process_time), batch * batches)
    return {name: round(cost, 3) for name, cost in found.items()} | {
        "times_cheaper": round(found["dense RoIAlign"] / found["align"], 1),
        "times_cheaper_without_numba": round(found["dense RoIAlign"] / found["align without numba"], 1),
    }


def step_ratios(store: MapStore, name: str, batch: int, steps: int, device: torch.device) -> dict[str, Any]:
    """Time of a training step with TokenMix over that with timm's CutMix: mixed in the loader, and on the device."""
    model = timm.create_model(name, num_classes=CLASSES).to(device).train()
    size = model.pretrained_cfg["input_size"][-1]
    grid = model.patch_embed.grid_size
    optimizer = torch.optim.AdamW(model.parameters())
    labels, given = torch.randint(CLASSES, (batch,)), some_targets(batch)
    pixels = torch.randint(256, (batch, 3, size, size), dtype=torch.uint8)
    cutmix, tokenmix = Mixup(**MIXUP), TokenMix(store, CLASSES, grid, rng=np.random.default_rng(0), mixup_alpha=0)
    collated = {
        "timm": FastCollateMixup(**MIXUP)(list(zip(pixels, labels.tolist(), strict=True))),
        "ours": TokenMixCollate(store, grid, **MIXUP)(with_targets(pixels, given)),
    }

    def step(images: torch.Tensor, dense: torch.Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = SoftTargetCrossEntropy()(model(images), dense)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    def on_device(images: torch.Tensor) -> torch.Tensor:
        return images.to(device, non_blocking=True).float().sub_(127.5).div_(63)

    seconds = take_turns(
        {
            "CutMix in the loader": lambda: step(on_device(collated["timm"][0]), collated["timm"][1].to(device)),
            "TokenMix in the loader": lambda: step(on_device(collated["ours"][0]), collated["ours"][1].to(device)),
            "CutMix on the device": lambda: step(*cutmix(on_device(pixels), labels.to(device))),
            "TokenMix on the device": lambda: step(*tokenmix(on_device(pixels), given)),
        },
        steps,
        time.perf_counter if device.type == "cuda" else time.process_time,
    )
    return {
        "model": name,
        "batch": batch,
        "device": str(device),
        "ms": {kind: round(1e3 * statistics.median(found), 3) for kind, found in seconds.items()},
        "ratio_in_loader": ratio(seconds["TokenMix in the loader"], seconds["CutMix in the loader"]),
        "ratio_on_device": ratio(seconds["TokenMix on the device"], seconds["CutMix on the device"]),
    }


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Median of the ratios within a round, and the 95 % interval of that median."""
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    count = len(ratios)
    low = max(0, int(count / 2 - 0.98 * count**0.5))
    return {
        "median": round(statistics.median(ratios), 4),
        "interval": [round(ratios[at], 4) for at in (low, count - 1 - low)],
    }


def accelerator(device: str) -> dict[str, str]:
    """Its name."""
    return {"accelerator": torch.cuda.get_device_name() if device.startswith("cuda") else "none"}


if __name__ == "__main__":
    main()
