"""All that needs a GPU in one call of at most ten minutes: the arms on larger students, extraction, the cost of a step.

    python -m recipes.ablation.run FOLDER --prepare             # where the stamps are; FOLDER then travels
    python -m recipes.ablation.gpu FOLDER -o OUT                # on the GPU
    python -m recipes.ablation.gpu FOLDER -o OUT --device cpu --tiny

The last tries the same commands at settings that a CPU can do in two minutes. OUT gets each command's log, what
it wrote, and `gpu.json`, which says how each ended. Runs that time cut off are lost, all finished ones are kept:
`recipes.ablation.report` makes the same table of them.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from recipes.ablation.log import ROOT, device_name, machine, write_json


@dataclass(frozen=True)
class Step:
    """`seconds`: after so many it is stopped, which is a failure unless `open_ended`."""

    name: str
    command: list[str]
    seconds: float
    open_ended: bool = False


def steps(folder: Path, output: Path, device: str, seconds: float, *, tiny: bool) -> list[Step]:
    """What measures comes first, and alone; the runs take what is left."""
    extract = ["benchmarks.extract", "--device", device, "--rounds", "1", "--out", str(output / "extract.json")]
    overhead = ["benchmarks.overhead", "--device", device, "--only", "steps", "--out", str(output / "overhead.json")]
    runs = ["recipes.ablation.run", str(folder), "--device", device, "--students", "wide_cnn,wide_vit"]
    if tiny:
        extract += ["--case", "light", "--workers", "1"]
        overhead += ["--batch-size", "8", "--steps", "1"]
        runs += ["--arms", "none,block-area", "--seeds", "1", "--epochs", "1"]
    else:
        extract += ["--amp", "bf16", "--batch-size", "64", "--workers", str(max(1, (os.cpu_count() or 2) - 1))]
        overhead += ["--model", "deit_small_patch16_224", "--batch-size", "1024", "--steps", "20"]
        runs += ["--arms", "main", "--seeds", "50", "--processes", str(max(1, (os.cpu_count() or 2) - 2))]
    quarter = seconds / 4
    return [
        Step("extract", extract, quarter),
        Step("overhead", overhead, quarter),
        Step("ablation", runs, seconds, open_ended=True),
    ]


def take(step: Step, output: Path, seconds: float) -> dict[str, Any]:
    """Run it, with all its processes, for at most so long; its output goes to a file."""
    command = [sys.executable, "-m", *step.command]
    started = time.monotonic()
    with (output / f"{step.name}.log").open("wb") as log:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        running = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env=environment, start_new_session=True
        )
        try:
            code: int | None = running.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)
                running.wait()
    return {
        "command": shlex.join(["python", "-m", *step.command]), "exit_code": code, "stopped": code is None,
        "seconds": round(time.monotonic() - started, 1), "good": code == 0 or (code is None and step.open_ended),
    }  # fmt: skip


@click.command(help=__doc__.partition("\n")[0])
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--device", default="cuda", show_default=True)
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=9.5, show_default=True)
@click.option("--tiny", is_flag=True, help="Small enough for a CPU.")
def main(folder: Path, output: Path, device: str, minutes: float, tiny: bool) -> None:
    """Each step in turn; one that fails does not keep the others from their time."""
    folder, output = folder.resolve(), output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    end, done = time.monotonic() + 60 * minutes, {}
    for step in steps(folder, output, device, 60 * minutes, tiny=tiny):
        done[step.name] = take(step, output, max(1.0, min(step.seconds, end - time.monotonic())))
        click.echo(f"{step.name}: {done[step.name]}")
        write_json(output / "gpu.json", {"device": device_name(device), "machine": machine(), "steps": done})
    if (folder / "runs").is_dir():
        shutil.copytree(folder / "runs", output / "runs", dirs_exist_ok=True)
    failed = [name for name, found in done.items() if not found["good"]]
    if failed:
        raise click.ClickException(f"{', '.join(failed)}: failed or took too long, see {output}/{failed[0]}.log")


if __name__ == "__main__":
    main()
