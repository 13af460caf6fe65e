"""What `--json` prints, key by key: docs/command-line.md promises these names, whatever the code behind them is called.

One object on stdout; all that is said to a person goes to stderr.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pathlib import Path

    from extract.audit.verdict import Verdict
    from extract.job.plan import Plan
    from extract.teacher.heads import LinearHead
    from store import Header, Transfer
    from tokenmix_loader.bench import BenchReport

JSON = click.option("--json", "as_json", is_flag=True, help="One object, for programs: docs/command-line.md.")


def print_json(values: Mapping[str, Any], indent: int | None = 2) -> None:
    """Print one object; ValueError for a number that JSON has no word for."""
    click.echo(json.dumps(values, indent=indent, ensure_ascii=False, allow_nan=False))


def plan_values(plan: Plan) -> dict[str, Any]:
    """Sizes, and the speeds in images per second."""
    header = plan.header
    return {
        "rows": header.rows,
        "classes": len(header.dataset["class_names"]),  # type: ignore[arg-type]
        "kind": header.kind,
        "grid": list(header.grid),
        "dtype": header.dtype,
        "shards": plan.shards,
        "shard_rows": header.shard_rows,
        "bytes": plan.nbytes,
        "decoding_rate": plan.decode_rate,
        "teacher_rate": plan.teacher_rate,
        "hours": plan.hours,
    }


def head_values(head: LinearHead, path: Path) -> dict[str, Any]:
    """The fitted head; its accuracy as the header of a store has it."""
    classes, channels = head.weight.shape
    accuracy = None if head.held_out is None else asdict(head.held_out)
    return {
        "path": str(path), "classes": classes, "channels": channels, "digest": head.digest, "accuracy": accuracy,
    }  # fmt: skip


def verdict_values(verdict: Verdict) -> dict[str, Any]:
    """What is wrong, what was done about it; `cause` by the names of `store.problems.Cause`, in lower case."""
    of_the_store = [
        {**vars(problem), "cause": problem.cause.name.lower()} for problem in verdict.report.problems
    ]  # fmt: skip
    nowhere = dict.fromkeys(("cause", "file", "shard", "row", "key"))
    others = [{**nowhere, "message": line} for line in verdict.problems[len(of_the_store) :]]
    deep = verdict.deep
    return {
        "ok": verdict.ok,
        "rows": verdict.report.rows,
        "shards": verdict.report.shards,
        "rows_unreadable": verdict.report.unreadable,
        "problems": of_the_store + others,
        "done": list(verdict.done),
        "deep": deep and {"rows": deep.rows, "max_error": deep.max_error, "tolerance": deep.tolerance},
    }


def info_values(store: Path, header: Header) -> dict[str, Any]:
    """The header, field by field as docs/format.md has it, and the state of the store."""
    from extract.audit.top1 import prediction_state
    from store.folder.files import present_shards

    return {
        **asdict(header),
        "shards": header.sharding.shards,
        "shards_present": len(present_shards(store, header)),
        "content_digest": header.content_digest,
        **prediction_state(store, header),
    }


def transfer_values(done: Transfer) -> dict[str, Any]:
    """What a push or pull did."""
    return {
        "url": done.url,
        "store": str(done.store),
        "content_digest": done.content_digest,
        "files": done.files,
        "bytes": done.nbytes,
        "moved_files": done.moved,
        "moved_bytes": done.moved_nbytes,
    }


def bench_values(report: BenchReport) -> dict[str, Any]:
    """Milliseconds per image, of the wall clock and of all processes' CPU time."""
    costs = {name: getattr(report, name)._asdict() for name in ("without_maps", "with_maps", "with_cold_maps")}
    return {"images": report.images, **costs}
