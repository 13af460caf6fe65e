"""Images with a class for every pixel: ADE20K's folder as it is unpacked, or a recipe's images and pixel masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

IGNORED: Final = 255  # a pixel of no class: it counts neither in the loss nor in the figures
ADE_CLASSES: Final = 150
ADE_SPLITS: Final = ("training", "validation")
OPAQUE: Final = 128  # from this opacity on a pixel is the object's
MAX_CLASS_SHARE: Final = 0.75  # of a crop, as in MMSegmentation's setting for ADE20K
CROP_TRIES: Final = 10  # until a crop meets that

Pair = tuple[tv_tensors.Image, tv_tensors.Mask]


@dataclass(frozen=True)
class Scenes:
    """N images and, for each, a file of labels; `read(file, image number)` gives uint8 [H, W], 255 where ignored."""

    images: tuple[Path, ...]
    labels: tuple[Path, ...]
    class_names: tuple[str, ...]
    read: Callable[[Path, int], np.ndarray[Any, np.dtype[np.uint8]]]

    def __len__(self) -> int:
        return len(self.images)

    def pair(self, number: int) -> Pair:
        """The image uint8 [3, H, W] and its labels uint8 [H, W]; ValueError where their sizes differ."""
        with Image.open(self.images[number]) as file:
            image = tv_tensors.Image(F.pil_to_tensor(file.convert("RGB")))
        labels = self.read(self.labels[number], number)
        if image.shape[1:] != labels.shape:
            raise ValueError(
                f"{self.labels[number]}: expected labels of {list(image.shape[1:])} px, as the image has, "
                f"found {list(labels.shape)}; repair the file"
            )
        return image, tv_tensors.Mask(torch.from_numpy(labels))


def read_scenes(root: Path, split: str = "training") -> Scenes:
    """The scenes below `root`.

    With annotations/SPLIT beside images/SPLIT it is ADE20K's folder (ADEChallengeData2016): label 0, "other", is
    ignored, 1 to 150 become 0 to 149. With masks/ beside images/ it is a class folder with pixel masks, as the recipes
    cut_outs and context_digits write it: class 0 is the background, the others are the folders in order. Raises
    FileNotFoundError for another folder, for no images and for an image without labels.
    """
    if (root / "annotations").is_dir():
        if split not in ADE_SPLITS:
            raise ValueError(f"{root}: expected a split of {ADE_SPLITS}, found {split!r}")
        return _ade(root, split)
    if (root / "masks").is_dir():
        return _masked_classes(root)
    raise FileNotFoundError(
        f"{root}: expected images/ with annotations/ (ADE20K) or masks/ (recipes cut_outs, context_digits) beside it, "
        f"found {sorted(path.name for path in root.iterdir()) if root.is_dir() else 'no folder'}"
    )


def _ade(root: Path, split: str) -> Scenes:
    images = _files(root / "images" / split, "*.jpg")
    labels = tuple(root / "annotations" / split / f"{path.stem}.png" for path in images)
    _require_all(labels)
    return Scenes(images, labels, tuple(f"class {number}" for number in range(1, ADE_CLASSES + 1)), _read_ade)


def _read_ade(path: Path, _: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    stored: np.ndarray[Any, np.dtype[np.uint8]] = np.asarray(Image.open(path), np.uint8)
    labels: np.ndarray[Any, np.dtype[np.uint8]] = stored - np.uint8(1)  # 0, "other", becomes 255, which is ignored
    if (labels[labels != IGNORED] >= ADE_CLASSES).any():
        raise ValueError(
            f"{path}: expected labels 0 to {ADE_CLASSES}, found {int(labels[labels != IGNORED].max()) + 1}"
        )
    return labels


def _masked_classes(root: Path) -> Scenes:
    images = _files(root / "images", "*/*.jpg")
    names = tuple(sorted({path.parent.name for path in images}))
    labels = tuple(root / "masks" / path.parent.name / f"{path.stem}.png" for path in images)
    _require_all(labels)
    classes = [names.index(path.parent.name) + 1 for path in images]

    def read(path: Path, number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return np.where(np.asarray(Image.open(path).convert("L")) >= OPAQUE, classes[number], 0).astype(np.uint8)

    return Scenes(images, labels, ("background", *names), read)


def _files(folder: Path, pattern: str) -> tuple[Path, ...]:
    found = tuple(sorted(folder.glob(pattern)))
    if not found:
        raise FileNotFoundError(f"{folder}: expected images {pattern}, found none")
    return found


def _require_all(paths: tuple[Path, ...]) -> None:
    absent = [path for path in paths if not path.is_file()]
    if absent:
        raise FileNotFoundError(f"{absent[0]}: expected labels beside every image, found none for {len(absent)}")


class TrainingCrops(Dataset[Pair]):
    """Augmented crops: a function of the seed and the position in the training run, whatever process makes them.

    As MMSegmentation's setting for ADE20K: the shorter side scaled to `short_side` times .5 to 2, a crop in which no
    class has more than 3/4 of the pixels, flip, photometric distortion.
    """

    def __init__(self, scenes: Scenes, crop_px: int, short_side_px: int, seed: int, mean: Any, std: Any):
        self.scenes, self.crop_px, self.short_side_px, self.seed = scenes, crop_px, short_side_px, seed
        self.distort = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomPhotometricDistort(p=0.5)])
        self.normalise = Normalise(mean, std)
        self._order: tuple[int, np.ndarray[Any, np.dtype[np.int64]]] = -1, np.arange(0)

    def __getitem__(self, position: int) -> Pair:
        """Image float32 [3, C, C] and labels int64 [C, C] of the `position`-th sample of the run."""
        epoch, place = divmod(position, len(self.scenes))
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.scenes))
        number = int(self._order[1][place])
        with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's global generator
            torch.manual_seed(int(np.random.SeedSequence([self.seed, 1, position]).generate_state(1)[0]))
            return self.normalise(*self.distort(*self._crop(*self.scenes.pair(number))))

    def _crop(self, image: tv_tensors.Image, labels: tv_tensors.Mask) -> Pair:
        side = self.short_side_px * float(torch.empty(()).uniform_(0.5, 2.0))
        image, labels = resize_short_side((image, labels), max(1, round(side)))
        lacking = [max(0, self.crop_px - length) for length in image.shape[1:]]
        border = [0, 0, lacking[1], lacking[0]]
        image, labels = F.pad(image, border), F.pad(labels, border, fill=IGNORED)
        for _ in range(CROP_TRIES):
            top, left = (int(torch.randint(length - self.crop_px + 1, ())) for length in image.shape[1:])
            cut = F.crop(labels, top, left, self.crop_px, self.crop_px)
            counts = torch.bincount(cut[cut != IGNORED].long())
            if (counts > 0).sum() > 1 and counts.max() <= MAX_CLASS_SHARE * counts.sum():
                break
        return F.crop(image, top, left, self.crop_px, self.crop_px), cut


class WholeScenes(Dataset[Pair]):
    """For the test: image float32 [3, h, w] with its shorter side scaled, labels int64 [H, W] as they are."""

    def __init__(self, scenes: Scenes, short_side_px: int, mean: Any, std: Any):
        self.scenes, self.short_side_px, self.normalise = scenes, short_side_px, Normalise(mean, std)

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, number: int) -> Pair:
        image, labels = self.scenes.pair(number)
        return self.normalise(resize_short_side((image,), self.short_side_px)[0], labels)


@dataclass(frozen=True)
class Normalise:
    """uint8 to float32 by mean and deviation of each channel; labels to int64."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: tv_tensors.Image, labels: tv_tensors.Mask) -> Pair:
        """As plain tensors."""
        scaled = F.normalize(F.to_dtype(image, torch.float32, scale=True), list(self.mean), list(self.std))
        return scaled.as_subclass(torch.Tensor), labels.as_subclass(torch.Tensor).long()


def resize_short_side(parts: tuple[Any, ...], side_px: int) -> tuple[Any, ...]:
    """Each part with its shorter side `side_px` long, the longer at most four times that; labels by the nearest."""
    return tuple(F.resize(part, [side_px], max_size=4 * side_px, antialias=True) for part in parts)
