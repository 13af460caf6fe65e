"""What the join needs of a dataset: keys and labels of its images, and how one of them is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from tokenmix_loader.store_access import StoreMismatch

Ints = npt.NDArray[np.int64]
Labels = Sequence[int] | npt.NDArray[np.integer[Any]]


class NoImage(TypeError):  # noqa: N818 -- says what was found
    """A sample has no PIL image where one is expected: the dataset is made wrongly, its files are not damaged."""


@dataclass(frozen=True)
class Files:
    """How the images of a dataset are loaded, each by its number."""

    load: Callable[[int], Any]  # may raise anything; `load_image` calls it
    name: Callable[[int], str]  # what to call an image in a message: its path, or its key
    open: Callable[[int], BinaryIO] | None = None  # the encoded image, where it can be reached
    may_turn: bool = True  # the loader may follow EXIF's orientation; one that is known not to needs no look
    transform: Any = None  # the dataset's own, which is not run when an image is loaded here

    def part(self, places: Sequence[int]) -> Files:
        """The images at these places."""
        return replace(
            self,
            load=partial(_at, self.load, places),
            name=partial(_at, self.name, places),
            open=self.open and partial(_at, self.open, places),
        )


@dataclass(frozen=True)
class Source:
    """M images in order, and the N samples of the dataset, each of which is one of them."""

    keys: Sequence[str]  # [M] paths relative to the dataset's root, '/' separated
    labels: Ints  # [M]
    files: Files
    samples: Ints  # [N] the number of each sample's image: a Subset may have an image twice

    def part(self, indices: Any) -> Source:
        """The samples with these indices; TypeError unless they are whole numbers, IndexError beyond the samples."""
        images, samples = np.unique(self.samples[self._checked(indices)], return_inverse=True)
        places = images.tolist()
        return Source([self.keys[place] for place in places], self.labels[images], self.files.part(places), samples)

    def _checked(self, indices: Any) -> Ints:
        """A mask of True and False would be taken for samples 1 and 0."""
        given, size = np.asarray(indices), len(self.samples)
        if given.ndim != 1 or (len(given) and not np.issubdtype(given.dtype, np.integer)):
            raise TypeError(
                f"Subset: expected whole numbers as indices, found {given.dtype} {list(given.shape)}; "
                "of a mask take numpy.flatnonzero"
            )
        if len(given) and not -size <= given.min() <= given.max() < size:
            raise IndexError(
                f"Subset: expected indices of {size} samples, found {given.min()} to {given.max()}; was it made for "
                "another dataset?"
            )
        return given.astype(np.int64)


def _at(function: Callable[[int], Any], places: Sequence[int], index: int) -> Any:
    return function(places[index])


def load_image(files: Files, number: int) -> Image.Image:
    """An image, decoded; raises what `naming` and `as_image` raise."""
    with naming(partial(files.name, number)):
        return as_image(files.name(number), files.load(number))


def still_unreadable(files: Files, images: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Those of the images that cannot be decoded; OSError where the file system fails, and not an image.

    timm's reader would keep a tar open, whose position the workers that are forked later would share. So where a loader
    is known to do what Pillow does, the file is opened here in its place.
    """
    if not files.may_turn and files.open is not None:
        files = replace(files, load=partial(_decode, files.open))
    return images[[not _can_be_decoded(files, image) for image in images.tolist()]]


def _can_be_decoded(files: Files, image: int) -> bool:
    try:
        load_image(files, image)
    except OSError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno is not None:
            raise
        return False
    return True


def _decode(open_file: Callable[[int], BinaryIO], number: int) -> Image.Image:
    with open_file(number) as file, Image.open(file) as encoded:
        image: Image.Image = encoded.convert("RGB")
    return image


@contextmanager
def naming(name: Callable[[], str]) -> Iterator[None]:
    """OSError that names the image, for whatever is raised inside but for a wrong type and a store that does not fit.

    Image loaders raise ValueError, SyntaxError, struct.error, zlib.error and others for damaged files.
    """
    try:
        yield
    except (NoImage, StoreMismatch, MemoryError):
        raise
    except Exception as error:
        found = error if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise OSError(f"{name()}: expected an image, found {found}; repair it or take it out of the dataset") from error


def as_image(where: str, loaded: Any) -> Image.Image:
    """What a loader returned, decoded. OSError for None, which OpenCV returns, TypeError for anything else."""
    if loaded is None:
        raise OSError("None, which OpenCV returns for a file that it cannot read")
    image = require_pil(where, loaded)
    image.load()
    return image


def require_pil(where: str, image: Any) -> Image.Image:
    """The image itself; TypeError for anything else, which may have been moved since it was decoded."""
    if not isinstance(image, Image.Image):
        raise NoImage(
            f"{where}: expected a PIL image, found {type(image).__name__}; give the transform to MapDataset instead"
        )
    return image


def image_in(where: str, sample: Any, input_key: str) -> Any:
    """The image of a sample: (image, label), or a mapping, as Hugging Face's; TypeError for other samples."""
    if isinstance(sample, Image.Image):
        return sample
    if isinstance(sample, Mapping):
        if input_key in sample:
            return sample[input_key]
        fields = ", ".join(map(str, sample))
        raise NoImage(f"{where}: expected a field {input_key!r} with the image, found {fields}; pass input_key='...'")
    if isinstance(sample, Sequence) and not isinstance(sample, str | bytes) and len(sample):
        return sample[0]
    raise NoImage(f"{where}: expected (image, label) or a mapping, found {type(sample).__name__}; wrap the dataset")
