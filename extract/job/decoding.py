"""From an encoded image to the teacher's input, in the worker processes of a data loader."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from timm.data import create_transform

from extract.errors import ExtractError, NoImageError
from extract.images.image_list import ImageList
from extract.images.orientation import orientation_of
from extract.job.processes.in_hand import InHand
from extract.teacher.preprocess import Preprocessing
from store.fingerprint import fingerprint_of_bytes
from store.spec import UNKNOWN

# Pillow's own limit against decompression bombs (89.5 Mpixel), applied to what a resize would allocate:
# a 20,000 x 1 image scaled to a short side of 448 would need 12 GB.
MAX_RESIZED_PIXELS = 89_478_485


def reason_of(error: Exception) -> str:
    """Why an image cannot be decoded: the same text in every run, for it is stored."""
    if isinstance(error, UnidentifiedImageError):
        return "no image format that Pillow knows"
    return re.sub(r" at 0x[0-9a-f]+", "", f"{type(error).__name__}: {error}")[:200]


class Sample(NamedTuple):
    """One decoded row. `error`: the image cannot be decoded. `fault`: what failed is not the image; ends the job."""

    row: int
    pixels: torch.Tensor | None  # uint8 [3, H, W]
    size: tuple[int, int] = (0, 0)  # width, height of the decoded image
    view: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    orientation: int = UNKNOWN
    fingerprint: int = UNKNOWN
    error: str = ""
    fault: str = ""


class Batch(NamedTuple):
    """B rows of one shard, in order; unreadable images are black and have an error."""

    rows: list[int]
    pixels: torch.Tensor  # uint8 [B, 3, H, W]
    size: npt.NDArray[np.int32]  # [B, 2]
    view: npt.NDArray[np.float32]  # [B, 4]
    orientation: npt.NDArray[np.uint8]  # [B]
    fingerprint: npt.NDArray[np.uint64]  # [B]
    error: list[str]
    fault: str


class Decoder(torch.utils.data.Dataset[Sample]):
    """Row -> Sample; runs in the loader's worker processes."""

    def __init__(self, images: ImageList, preprocessing: Preprocessing):
        self.images = images
        self.preprocessing = preprocessing
        self.in_hand: InHand | None = None  # to be told of every row
        # uint8 to the device, a quarter of the bytes; the teacher normalises there
        self.transform = create_transform(
            preprocessing.input_size,
            crop_mode=preprocessing.crop_mode,
            crop_pct=preprocessing.crop_pct,
            interpolation=preprocessing.interpolation,
            mean=preprocessing.mean,
            std=preprocessing.std,
            normalize=False,
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> Sample:
        if self.in_hand is None:
            return self._load(row)
        self.in_hand.take(row)
        sample = self._load(row)
        self.in_hand.put_down()  # not in a `finally`: what ends the process stays in hand, and is named
        return sample

    def _load(self, row: int) -> Sample:
        try:
            with self.images.open(row) as file:
                data = file.read()
        except NoImageError as error:
            return Sample(row, None, error=str(error))
        except Exception as error:
            return Sample(row, None, fault=self._fault(row, error))
        try:
            return self.decode(row, data)
        except MemoryError as error:
            return Sample(row, None, fault=self._fault(row, error))
        except Exception as error:  # Pillow and its plug-ins raise many types for a damaged image
            return Sample(row, None, fingerprint=fingerprint_of_bytes(data), error=reason_of(error))

    def _fault(self, row: int, error: Exception) -> str:
        if isinstance(error, ExtractError):
            return str(error)
        if isinstance(error, MemoryError):
            mend = "memory was short, which is no fault of the image: use fewer --workers, or leave the image out"
        elif isinstance(error, OSError):
            mend = "the file system failed, not the image: check the mount and run again"
        else:
            mend = "its container cannot be read: check that, not the image, and run again"
        said = str(error) if isinstance(error, OSError) else reason_of(error)
        return f"{self.images.root}: {self.images.keys[row]!r}: {said}; {mend}"

    def decode(self, row: int, data: bytes) -> Sample:
        """Decode and transform one encoded image (no EXIF rotation, as in training).

        Pillow's warnings (odd metadata, many pixels) are left out: they name no file, and where the user's `-W error`
        makes errors of them, a readable image would be stored as unreadable.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as encoded:
                width, height = encoded.size
                resized_w, resized_h = self.preprocessing.resized(width, height)
                if resized_w * resized_h > MAX_RESIZED_PIXELS or min(resized_w, resized_h) < 1:
                    resized = f"{width} x {height} pixels would be resized to {resized_w} x {resized_h}"
                    raise ValueError(f"{resized}; use --crop-mode squash")
                image = encoded.convert("RGB")
                orientation = orientation_of(encoded)
            pixels = self.transform(image)
        view = self.preprocessing.view(width, height)
        return Sample(row, pixels, (width, height), view, orientation, fingerprint_of_bytes(data))

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Stack samples; B is the number of samples, readable or not, so batches are the same in every run."""
        black = torch.zeros(3, *self.preprocessing.input_size, dtype=torch.uint8)
        return Batch(
            rows=[s.row for s in samples],
            pixels=torch.stack([black if s.pixels is None else s.pixels for s in samples]),
            size=np.array([s.size for s in samples], np.int32),
            view=np.array([s.view for s in samples], np.float32),
            orientation=np.array([s.orientation for s in samples], np.uint8),
            fingerprint=np.array([s.fingerprint for s in samples], np.uint64),
            error=[s.error for s in samples],
            fault=next((s.fault for s in samples if s.fault), ""),
        )
