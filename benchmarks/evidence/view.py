"""What it costs that a teacher sees the image's central square only, and where maps are best and worst.

    python -m benchmarks.evidence.view FOLDER -o docs/evidence.png      # after benchmarks.evidence FOLDER

Writes benchmarks/results/evidence_view.json: errors as in benchmarks.evidence, apart for objects that lie in the
teacher's view and for others, and for maps of the whole image, squashed to a square, at three sizes. The picture shows
the images with the least and the largest errors of `cam` as it comes, each object once, without any pixel of the
objects, which others own: black is no evidence, yellow the most, the line the object's outline; grey is what the
teacher did not see.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.evidence.scores import SPLITS, Images, errors_of, extract_s, interval, load
from benchmarks.read import machine
from extract import TeacherSpec
from recipes.cut_outs.scene import Look, objects
from recipes.cut_outs.stamps import stamp_folder
from recipes.evaluate.drawing import save

COUNT = 6  # of the best, and of the worst
TEACHER, USUAL = "efficientnet_lite0", "cam"
WHOLE = ((224, None), (320, None), (448, None), (224, (1.0, 2.0)))  # px, scales
IN_VIEW = 0.95  # of an object's pixels


def stores_of(folder: Path) -> dict[str, list[Path]]:
    """Those of benchmarks.evidence; those of whole images are made where they are not there yet."""
    stores = {kind: [folder / split / f"{TEACHER}-{kind.replace(' ', '')}" for split in SPLITS]
              for kind in ("label", USUAL, "cam, scales 1,2")}  # fmt: skip
    for side, scales in WHOLE:
        named = f"cam, whole image at {side} px" + ("" if scales is None else ", scales 1,2")
        stores[named] = [folder / split / f"{TEACHER}-whole{side}{'' if scales is None else '-2'}" for split in SPLITS]
        spec = TeacherSpec(TEACHER, kind="cam", device="cpu", scales=scales, crop_mode="squash", crop_pct=1.0,
                           input_size=(side, side))  # fmt: skip
        for split, path in zip(SPLITS, stores[named], strict=True):
            extract_s(folder / split, path, spec)
    return stores


def share_in_view(mask: Any, view: Tensor) -> float:
    """Of an object's pixels, in a view (left, top, right, bottom) in shares of the image."""
    pixels = np.asarray(mask, np.float64)
    height, width = pixels.shape
    left, top, right, bottom = (round(float(part) * side) for part, side in zip(view, (width, height) * 2, strict=True))
    return float(pixels[top:bottom, left:right].sum() / pixels.sum())


def by_view(
    errors: dict[str, Tensor], image: npt.NDArray[np.int64], images: Images, inside: npt.NDArray[np.bool_]
) -> dict[str, Any]:
    """Of every target: the ratio to the area's error of all scores, of those of objects in view, of the others."""
    parts = {"all": np.ones_like(image, bool), "in_view": inside[image], "out_of_view": ~inside[image]}
    area = errors["area"].numpy()
    found: dict[str, Any] = {}
    for name, error in errors.items():
        found[name] = {part: round(float(error.numpy()[of].mean() / area[of].mean()), 3) for part, of in parts.items()}
        found[name]["interval"] = interval(errors, images.object[image], name)
    return found


def image_errors(error: npt.NDArray[Any], area: npt.NDArray[Any], image: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Of every image; NaN for one that no crop showed."""
    with np.errstate(invalid="ignore"):
        mean: npt.NDArray[Any] = np.bincount(image, error) / np.bincount(image) / area.mean()
    return mean


def chosen(errors: npt.NDArray[Any], images: Images) -> tuple[list[int], list[int]]:
    """The images with the least errors and those with the largest, of different objects."""
    order = [number for number in np.argsort(errors).tolist() if np.isfinite(errors[number])]
    return _of_different_objects(order, images), _of_different_objects(order[::-1], images)


def _of_different_objects(order: list[int], images: Images) -> list[int]:
    first = {int(images.object[number]): number for number in reversed(order)}
    return [number for number in order if first[int(images.object[number])] == number][:COUNT]


def draw(axes: Axes, heat: npt.NDArray[Any], view: npt.NDArray[Any], mask: Any, title: str) -> None:
    """One map where its view lies in the image."""
    width, height = mask.size
    left, top, right, bottom = view * [width, height, width, height]
    axes.set_facecolor("0.8")
    axes.imshow(heat, cmap="inferno", extent=(left, right, bottom, top), interpolation="bilinear")
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    axes.contour(x, y, np.asarray(mask), [128], colors="#56B4E9", linewidths=1)
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], aspect="equal")
    axes.set_title(title, fontsize=7)


def picture(images: Images, maps: Tensor, views: Tensor, of_image: npt.NDArray[Any]) -> Figure:
    """The best above, the worst below."""
    figure = Figure(figsize=(1.7 * COUNT, 4.4), layout="constrained")
    panels = figure.subplots(2, COUNT)
    names = [stamp.name.rpartition("/")[2] for stamp in objects(Look(stamp_folder()).objects)]
    for row, numbers in zip(panels, chosen(of_image, images), strict=True):
        for axes, number in zip(row, numbers, strict=True):
            where = Path(str(images.background[number])).stem
            title = f"{names[images.object[number]]}\non {where}: {of_image[number]:.2f}"
            draw(axes, maps[number].numpy(), views[number].numpy(), images.masks[number], title)
    figure.suptitle(f"{TEACHER}, kind {USUAL}: the best above, the worst below", fontsize=9)
    return figure


def main() -> None:
    """Measure, draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5, help="of crops and masks")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the picture")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "evidence_view.json")
    given = parser.parse_args()
    stores = stores_of(given.folder)
    images, evidences, _ = load(given.folder, Look(stamp_folder()), stores)
    contrast = {f"{kind}, contrast": evidences[f"{kind}, contrast"] for kind in stores if kind != "label"}
    errors, image = errors_of(contrast, images.masks, given.seeds)
    maps, views = contrast[f"{USUAL}, contrast"]
    inside = np.array([share_in_view(mask, view) for mask, view in zip(images.masks, views, strict=True)]) >= IN_VIEW
    result = {
        "teacher": TEACHER, "images": len(inside), "in_view": round(float(inside.mean()), 3), "seeds": given.seeds,
        "targets": by_view(errors, image, images, inside), "machine": machine(),
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    of_image = image_errors(errors[f"{USUAL}, contrast"].numpy(), errors["area"].numpy(), image)
    save(picture(images, maps, views, of_image), given.output)


if __name__ == "__main__":
    main()
