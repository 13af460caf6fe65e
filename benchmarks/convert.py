"""What it costs to import a tree of one `.pt` per image, and to check and read one such file, beside torch.load alone.

    python -m benchmarks.convert          # half a minute; writes benchmarks/results/convert.json

Files as TokenLabeling's: float16 [2, 5, 18, 18], by today's torch and as torch before 1.6 wrote them; JPEGs beside
them, of which only the size is read. One process, all files in the page cache. Readers take turns over the same files.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.read import machine
from extract.images.listing import list_images
from extract.published.importing import import_tree
from extract.published.torch_file import read_tensor
from extract.settings import ImportOptions

CLASSES = 1000
FORMS = {"today's": True, "before torch 1.6": False}


def main() -> None:
    """Build a tree, time both readers and the import, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=6_000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "convert.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, object] = {"images": options.images, "rounds": options.rounds}
    for name, new in FORMS.items():
        with tempfile.TemporaryDirectory() as folder:
            files = write_tree(Path(folder), options.images, new)
            result[name] = measure(Path(folder), files, options.rounds)
            print(name, json.dumps(result[name]), flush=True)
    options.out.write_text(json.dumps(result | {"machine": machine()}, indent=1) + "\n", encoding="utf-8")


def write_tree(root: Path, count: int, new: bool) -> list[Path]:
    """`images` and `maps`, parallel, of 1,000 classes; the files of the maps."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (375, 500, 3), np.uint8)).save(root / "image.jpg")
    jpeg = (root / "image.jpg").read_bytes()
    files = []
    drawn = [torch.from_numpy(rng.standard_normal((18, 18, CLASSES), np.float32)).topk(5) for _ in range(16)]
    for row in range(count):
        name = f"n{row % CLASSES:08d}/n{row % CLASSES:08d}_{row}"
        image, file = root / "images" / f"{name}.JPEG", root / "maps" / f"{name}.pt"
        image.parent.mkdir(parents=True, exist_ok=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(jpeg)
        logits, classes = drawn[row % len(drawn)]
        saved = torch.stack([logits.half(), classes.half()]).permute(0, 3, 1, 2)
        torch.save(saved, file, _use_new_zipfile_serialization=new)
        files.append(file)
    return files


def measure(root: Path, files: list[Path], rounds: int) -> dict[str, float]:
    """Microseconds per file, medians of `rounds`, and images imported per second of processor time."""
    readers: dict[str, Callable[[Path], object]] = {
        "checked": read_tensor,
        "torch.load": lambda file: torch.load(file, weights_only=True),
    }
    times: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(rounds):
        for name, read in readers.items():
            started = time.perf_counter()
            for file in files[: len(files) // 4]:
                read(file)
            times[name].append((time.perf_counter() - started) / (len(files) // 4) * 1e6)
    checked, unchecked = (statistics.median(found) for found in times.values())
    images = list_images(root / "images")
    rates: list[float] = []
    for turn in range(3):
        options, started = ImportOptions(shard_rows=4096), time.process_time()
        report = import_tree("tokenlabeling", root / "maps", images, root / f"store{turn}", options, outputs=CLASSES)
        rates.append(report.progress.done / (time.process_time() - started))
    return {
        "checked_us": round(checked, 1),
        "torch_load_us": round(unchecked, 1),
        "imported_per_core_second": round(statistics.median(rates)),
    }


if __name__ == "__main__":
    main()
