"""Which timm classifiers give exact per-token logits: at least one model of every module that registers any.

    python -m benchmarks.teachers              # minutes; writes docs/teachers.md and benchmarks/results/teachers.json
    python -m benchmarks.teachers --rescan     # first looks for the smallest models of every module, minutes more

Random weights of a fixed seed. Biases and norms are shifted at random, zero weights drawn, and batch norms
calibrated on noise, so that no identity holds by a zero and the image still shows in the last layer.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from extract.teacher.tokens.routes import Refusal, Route, choose_route

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "teachers.json"
PAGE = ROOT / "docs" / "teachers.md"
SMALL = (128, 128)  # where the model takes any size and still has a grid at this one
SPREAD = 0.3  # of the random shifts of biases and norms

POOLED = "global_pool=avg"  # as a --model-arg, for a checkpoint that was trained so

Row = dict[str, Any]


def main() -> None:
    """Run the zoo, print a line per model, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rescan", action="store_true", help="choose the models anew")
    parser.add_argument("--module", action="append", help="only this timm module; writes nothing; repeatable")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    logging.disable()
    chosen = scan() if options.rescan else json.loads(RESULTS.read_text("utf-8"))["candidates"]
    rows = []
    for module in options.module or sorted(chosen):
        for row in examine_module(module, chosen[module]):
            print(f"{row['module']:28}{row['model']:36}{row['route'] or 'refused: ' + row['refused']}", flush=True)
            rows.append(row)
    if not options.module:
        write(rows, chosen)


def scan() -> dict[str, list[str]]:
    """Of every module with classifiers the smallest model of each kind of pooling, the smallest first."""
    chosen = {}
    for module in timm.list_modules():
        smallest: dict[str, tuple[int, str]] = {}
        for name in timm.list_models(module=module):
            try:
                with torch.device("meta"):
                    model = timm.create_model(name)
            except (NotImplementedError, RuntimeError):  # cannot be built without data
                continue
            if getattr(model, "num_classes", 0):
                pool = getattr(model, "global_pool", None)
                found = (sum(p.numel() for p in model.parameters()), name)
                key = pool if isinstance(pool, str) else type(pool).__name__
                smallest[key] = min(found, smallest.get(key, found))
        if smallest:
            chosen[module] = [name for _, name in sorted(smallest.values())]
    return chosen


def examine_module(module: str, names: list[str]) -> Iterator[Row]:
    """A row per model, up to the first that is exact; failing all, the first one built to pool its tokens."""
    for name in names:
        row = {"module": module, "model": name, **examine(name)}
        yield row
        if row["route"]:
            return
    row = {"module": module, "model": f"{names[0]}, {POOLED}", **examine(names[0], global_pool="avg")}
    if row["route"]:
        yield row


def examine(name: str, **model_args: Any) -> Row:
    """Build, shake, and choose the route at a small size, else at the model's own."""
    torch.manual_seed(0)
    try:
        model = timm.create_model(name, **model_args).eval().requires_grad_(False)
    except (TypeError, AssertionError, ValueError):  # it does not know the argument
        return {"route": None}
    own = tuple(model.pretrained_cfg["input_size"][1:])
    row: Row = {}
    for size in dict.fromkeys((own,) if model.pretrained_cfg.get("fixed_input_size") else (SMALL, own)):
        started = time.monotonic()
        try:
            shake(model, size)
            route: Route | Refusal = choose_route(model, size)
        except (RuntimeError, AssertionError, ValueError) as error:
            route = Refusal(0, "a model that runs", f"{type(error).__name__}: {str(error).partition(chr(10))[0][:80]}")
        row = describe(route, size) | {"seconds": round(time.monotonic() - started, 1)}
        if row["route"]:
            break
    return row


def shake(model: torch.nn.Module, size: tuple[int, int]) -> None:
    """Make biases and norms random, zero weights not zero, and batch norms fit the rest."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim <= 1:
                parameter.add_(torch.empty_like(parameter).uniform_(-SPREAD, SPREAD, generator=generator))
            elif not parameter.any():
                parameter.normal_(std=0.02, generator=generator)
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        for norm in norms:
            norm.momentum = None  # an average over all that it sees: one batch
            norm.reset_running_stats()
            norm.train()
        if norms:
            model(torch.randn(4, 3, *size, generator=generator))
    model.eval()


def describe(route: Route | Refusal, size: tuple[int, int]) -> Row:
    """What the table says of it."""
    if isinstance(route, Refusal):
        return {"route": None, "input": list(size), "refused": f"expected {route.expected}, found {route.found}"}
    return {
        "route": str(route),
        "form": route.form,
        "input": list(size),
        "grid": list(route.grid),
        "error": route.error,
        "locality": round(route.locality, 2),
        "refused": "",
    }


def write(rows: list[Row], chosen: dict[str, list[str]]) -> None:
    """The JSON, and the table between the markers of the page."""
    exact = [row for row in rows if row["route"] and not row["model"].endswith(POOLED)]
    pooled = [row for row in rows if row["route"] and row["model"].endswith(POOLED)]
    summary = {"modules": len(chosen), "exact": len(exact), "exact_pooled": len(pooled)}
    versions = {"timm": timm.__version__, "torch": torch.__version__}
    document = {**summary, **versions, "rows": rows, "candidates": chosen}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    lines = [
        f"{len(exact)} of timm {timm.__version__}'s {len(chosen)} modules with classifiers have a model that is exact; "
        f"{len(pooled)} more where it is built with `--model-arg {POOLED}`, for a checkpoint that was trained so.",
        "",
        "| module | model | route | input | grid | error |",
        "|---|---|---|---|---|---|",
        *(table_line(row) for row in rows),
    ]
    head, _, rest = PAGE.read_text("utf-8").partition("<!-- table -->\n")
    tail = rest.partition("<!-- end of table -->\n")[2]
    page = [head + "<!-- table -->", *lines, "<!-- end of table -->\n"]
    PAGE.write_text("\n".join(page) + tail, encoding="utf-8")
    print(lines[0])


def table_line(row: Row) -> str:
    """One row in Markdown."""
    size = "x".join(map(str, row["input"]))
    if row["route"]:
        grid = "x".join(map(str, row["grid"]))
        return f"| {row['module']} | {row['model']} | {row['route']} | {size} | {grid} | {row['error']:.1e} |"
    return f"| {row['module']} | {row['model']} | refused: {row['refused']} | {size} | - | - |"


if __name__ == "__main__":
    main()
