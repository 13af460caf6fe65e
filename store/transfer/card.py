"""The dataset card of a pushed store: what `datasets.load_dataset` and people need to know.

What a person wrote stays: only the part between two marks is written again, and nothing where they are gone.
"""

from __future__ import annotations

from pathlib import Path

from store.checking.predictions import read_predictions
from store.format.header import Header
from store.transfer.manifest import Manifest

BEGIN, END = "<!-- tokenmix: written by every push, from here -->", "<!-- tokenmix: to here -->"

# A licence that the hub knows stands for one that is yet to be chosen; loaders must not take the JSON files for rows.
_FRONT = """---
license: unknown  # fill in, as cc-by-4.0
tags: [tokenmix, activation-maps, vision]
configs:
- config_name: default
  data_files:
  - split: train
    path: "shard-*.h5"
---

# Teacher activation maps

Licence: to be filled in, here and in the second line of this file; that of the images and of the teacher may bind.

"""


def make_card(path: Path, header: Header, manifest: Manifest, url: str, present: str | None) -> str:
    """The text of README.md for the store at `path`, to be pushed to `url`; `present`: the one that is there."""
    part = f"{BEGIN}\n{_describe(path, header, manifest, url)}{END}"
    if present is None:
        return f"{_FRONT}{part}\n"
    before, begin, rest = present.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{part}{after}" if begin and end else present


def _describe(path: Path, header: Header, manifest: Manifest, url: str) -> str:
    teacher, (h, w) = header.teacher, header.grid
    found = read_predictions(path, header)
    top1 = f"{100 * found.confusion.top1:.1f} %" if found.confusion.judged else "not known"
    depth = f", depth {header.depth}" if header.depth > 1 else ""
    rows = [
        ("images", f"{header.rows} of `{header.dataset['root_name']}`, {_classes(header)} classes"),
        ("teacher", f"`{teacher.get('name', 'unknown')}`, {teacher.get('source', 'unknown')} weights"),
        ("teacher's top-1", top1),
        ("kind", f"`{header.kind}`{depth}, {header.dtype}"),
        ("grid", f"{h} x {w}"),
        ("unreadable images", str(found.unreadable)),
        ("size", f"{manifest.nbytes:,} bytes in {len(manifest.files)} files"),
        ("content digest", f"`{header.content_digest}`"),
    ]
    table = "\n".join(f"| {_cell(name)} | {_cell(value)} |" for name, value in rows)
    return f"""
One map per image, stored by tokenmix-maps in HDF5.

| | |
|---|---|
{table}

```python
# pip install 'tokenmix-maps[share]'
store = tokenmix_loader.MapStore("{url}")  # pulled once into a cache, and verified
dataset = tokenmix_loader.MapDataset(timm.data.create_dataset("", "IMAGES"), store, transform)
tokenmix = tokenmix_loader.TokenMix(store, num_classes={_classes(header)}, grid=(14, 14), rng=np.random.default_rng(0))
for images, targets in torch.utils.data.DataLoader(dataset, batch_size=1024, shuffle=True):
    images, targets = tokenmix(images, targets)
```

`datasets.load_dataset` gives all rows as a table.
"""


def _classes(header: Header) -> int:
    return len(header.dataset["class_names"])  # type: ignore[arg-type]


def _cell(text: str) -> str:
    """Names come from folders and may hold what ends a cell, a line or the generated part."""
    return " ".join(text.replace("|", "\\|").replace("<!--", "&lt;!--").split())
