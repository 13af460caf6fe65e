"""Which maps of a vision transformer see the object: blocks fused, blocks alone, gradients of its attention.

    python -m benchmarks.evidence.transformer FOLDER     # writes benchmarks/results/transformer.json; some ten minutes

No transformer with ImageNet weights can be installed as a package, so this one is `small_vit`, trained here without
mixing on 1,500 cut-outs of twelve classes, and judged on the same objects on photographs that it never saw. Errors as
in benchmarks.evidence, in shares of the area target's, with 95 % intervals over images (bootstrap). Needs Debian's
tuxpaint-stamps-default, see recipes/cut_outs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor

from benchmarks.evidence.own_classes import store_of, top1_of
from benchmarks.evidence.scores import errors_of, interval
from benchmarks.fidelity import pixel_mask
from benchmarks.read import machine
from extract import TeacherSpec
from recipes.ablation.arms import ARMS
from recipes.ablation.data import IDEAL, Data, cut_outs, write_ideal_maps
from recipes.ablation.training import STUDENTS, Pictures, Schedule, test_batch, train
from tokenmix_loader import evidence

CLASSES, TRAIN, TEST, EPOCHS = 12, 1500, 600, 60
STUDENT = STUDENTS["small_vit"]
BLOCKS = tuple(f"blocks.{number}" for number in range(6))
AS_IT_COMES = "cam as it comes: all blocks"
CAMS: dict[str, dict[str, Any]] = {
    AS_IT_COMES: {}, "cam, --no-spread": {"spread": False},
    "cam, the last four blocks": {"cam_stage": ",".join(BLOCKS[2:])},
    "cam, the last four blocks, --no-spread": {"cam_stage": ",".join(BLOCKS[2:]), "spread": False},
    **{f"cam, block {number + 1}": {"cam_stage": block} for number, block in enumerate(BLOCKS)},
    "cam, block 1, --no-spread": {"cam_stage": BLOCKS[0], "spread": False},
}  # fmt: skip


def trained(data: Data, path: Path) -> Path:
    """The weights, made where they are not there yet."""
    if not path.exists():
        model = train(data, STUDENT, ARMS["none"], 0, Schedule(epochs=EPOCHS)).model
        torch.save(model.state_dict(), path)
    return path


def measure(folder: Path, seeds: int) -> dict[str, Any]:
    """The table."""
    data = cut_outs(folder, CLASSES, TRAIN, TEST)
    if not data.store(IDEAL).exists():
        write_ideal_maps(data.store(IDEAL), data.train)
    weights = trained(data, folder / "small_vit.pt")
    images = data.test / "images"
    spec = TeacherSpec(STUDENT.name, checkpoint=weights, num_classes=CLASSES, device="cpu", kind="cam")
    stores = {name: store_of(images, data.test / f"maps-{number}", replace(spec, **asked))
              for number, (name, asked) in enumerate(CAMS.items())}  # fmt: skip
    label = replace(spec, kind="label", class_token=True)
    stores["label --class-token"] = store_of(images, data.test / "maps-label", label)
    first = stores[AS_IT_COMES]
    rows = range(len(first))
    given = {
        f"{name}, {form}": (evidence(store.read(rows), form), torch.from_numpy(store.views(rows)))
        for name, store in stores.items()
        for form in ("logit", "contrast")
    }
    maps, whole = attention_maps(weights, images), torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(len(first), 1)
    given |= {f"gradients of attention, {form}": (evidence(maps, form), whole) for form in ("logit", "contrast")}
    masks = [pixel_mask(images, key) for key in first.keys]
    given["ideal 8 x 8"] = (torch.stack([_cells(mask) for mask in masks]), whole)
    errors, image = errors_of(given, masks, seeds)
    targets = {
        name: {
            "ratio_to_area": round(float(error.sum() / errors["area"].sum()), 4),
            "interval": interval(errors, image, name),
        }
        for name, error in errors.items()
    }
    return {"top1": top1_of(first), "targets": targets, "scores": len(image)}


def _cells(mask: Any) -> Tensor:
    return torch.from_numpy(np.asarray(mask.resize(STUDENT.grid), np.float32).copy())


def attention_maps(weights: Path, images: Path) -> Tensor:
    """As LeGrad (arXiv 2404.03214): positive gradients of the label's logit at each block's attention, of all queries.

    [N, h, w], mean over heads, queries and blocks; the logit of the end stands for LeGrad's, read at each block.
    """
    model: Any = timm.create_model(STUDENT.name, num_classes=CLASSES)
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.eval()
    pictures = Pictures(images)
    pixels, labels = test_batch(pictures, STUDENT.pixels)
    found = []
    for part, truth in zip(torch.split(pixels, 100), torch.split(labels, 100), strict=True):
        with kept_attention(model) as seen:
            logits = model(part)
        slopes = torch.autograd.grad(logits.gather(1, truth[:, None]).sum(), seen)
        tokens = torch.stack([slope.relu().mean((1, 2))[:, 1:] for slope in slopes]).mean(0)
        found.append(tokens.reshape(-1, *STUDENT.grid))
    return torch.cat(found)


@contextmanager
def kept_attention(model: Any) -> Iterator[list[Tensor]]:
    """The attention [B, heads, T, T] of every block that runs meanwhile, as a list that fills."""
    seen: list[Tensor] = []

    def keep(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        seen.append(output)
        return output

    parts = [block.attn for block in model.blocks]
    handles = [part.attn_drop.register_forward_hook(keep) for part in parts]
    for part in parts:
        part.fused_attn = False
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5, help="of crops and masks")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "transformer.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    result = measure(given.folder, given.seeds) | {"seeds": given.seeds, "machine": machine()}
    print(json.dumps(result, indent=1))
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
