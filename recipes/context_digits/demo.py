"""The main job on real photographs, as a user would run it: images -> teacher -> maps -> scores -> a picture.

python -m recipes.context_digits.demo FOLDER

Leaves FOLDER/images, FOLDER/masks, FOLDER/maps (the store), FOLDER/report.png and FOLDER/fidelity.json.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np

from benchmarks import fidelity
from recipes.context_digits.generate import generate
from store import MapStore

TEACHER = Path(__file__).with_name("teacher.safetensors")
TEACHER_OPTIONS = (
    f"--teacher test_resnet --checkpoint {shlex.quote(str(TEACHER))} --num-classes 10 --model-arg output_stride=8 "
    "--input-size 96 --crop-mode squash --crop-pct 1"
)


@click.command(help="Run the demo in FOLDER.")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--count", type=click.IntRange(min=20), default=1000, show_default=True, help="Images.")
@click.option("--pairs", type=click.IntRange(min=1), default=1000, show_default=True, help="Pairs of the table.")
def main(folder: Path, count: int, pairs: int) -> None:
    """Generate, extract, verify, show, and measure against the pixel masks."""
    started = time.monotonic()
    images, maps, report = folder / "images", folder / "maps", folder / "report.png"
    click.echo(f"{count} photographs with a handwritten digit each, in {images}")
    generate(folder, count, seed=0, split="test", processes=2)
    names = [shlex.quote(str(path)) for path in (images, maps, report)]
    tokenmix(f"extract {names[0]} {names[1]} {TEACHER_OPTIONS} --shard-size 200 --batch-size 50")
    tokenmix(f"verify {names[1]} --images {names[0]}")
    tokenmix(f"show {names[1]} --images {names[0]} -o {names[2]}")
    click.echo("\nhow far one image's score is from what its pixel mask says:")
    result = fidelity.run(images, maps, pairs)
    (folder / "fidelity.json").write_text(json.dumps(result, indent=1) + "\n")
    click.echo(fidelity.format_table(result))
    click.echo(summary(maps))
    click.echo(f"{time.monotonic() - started:.0f} s in all; now look at {report}")


def tokenmix(arguments: str) -> None:
    """Run the command line in its own process, echoed without the long path of the checkpoint."""
    click.echo(f"\n$ tokenmix {arguments.replace(shlex.quote(str(TEACHER)), TEACHER.name)}")
    done = subprocess.run([sys.executable, "-m", "cli", *shlex.split(arguments)], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def summary(maps: Path) -> str:
    """What the store says about itself, in one line."""
    store = MapStore(maps)
    top1 = np.mean(store.predictions == store.labels)
    nbytes = sum(path.stat().st_size for path in maps.iterdir())
    h, w = store.grid
    return (
        f"\nteacher's top-1 {100 * top1:.1f} % on digits that it never saw; "
        f"{nbytes / len(store):.0f} bytes per image on the disk, {2 * h * w} of them its {h} x {w} map"
    )


if __name__ == "__main__":
    main()
