"""From an encoded image to the teacher's input, in the worker processes of a data loader."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from timm.data import create_transform
from torch.utils.data import DataLoader

from extract.errors import ExtractError, ImagesError
from extract.images.image_list import ImageList
from extract.images.orientation import orientation_of
from extract.job.signals import end_with_parent
from extract.teacher.preprocess import Preprocessing
from store.fingerprint import fingerprint_of_bytes
from store.spec import UNKNOWN

# Pillow's own limit against decompression bombs (89.5 Mpixel), applied to what a resize would allocate:
# a 20,000 x 1 image scaled to a short side of 448 would need 12 GB.
MAX_RESIZED_PIXELS = 89_478_485
# Workers of a forkserver (Python 3.14's default) never notice that a killed job is gone, and stay for ever.
START_METHOD = "fork" if sys.platform == "linux" else None


def reason_of(error: Exception) -> str:
    """Why an image cannot be decoded: the same text in every run, for it is stored."""
    if isinstance(error, UnidentifiedImageError):
        return "no image format that Pillow knows"
    return re.sub(r" at 0x[0-9a-f]+", "", f"{type(error).__name__}: {error}")[:200]


class Sample(NamedTuple):
    """One decoded row. `error`: the image cannot be decoded. `fault`: the file system, not the image, failed."""

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
        try:
            with self.images.open(row) as file:
                data = file.read()
        except OSError as error:
            return Sample(row, None, fault=f"{self.images.root}: {self.images.keys[row]!r}: {error}")
        try:
            return self.decode(row, data)
        except Exception as error:
            return Sample(row, None, fingerprint=fingerprint_of_bytes(data), error=reason_of(error))

    def decode(self, row: int, data: bytes) -> Sample:
        """Decode and transform one encoded image (no EXIF rotation, as in training)."""
        with Image.open(io.BytesIO(data)) as encoded:
            width, height = encoded.size
            resized_w, resized_h = self.preprocessing.resized(width, height)
            if resized_w * resized_h > MAX_RESIZED_PIXELS or min(resized_w, resized_h) < 1:
                raise ValueError(
                    f"{width} x {height} pixels would be resized to {resized_w} x {resized_h}; use --crop-mode squash"
                )
            image = encoded.convert("RGB")
            orientation = orientation_of(encoded)
        pixels, view = self.transform(image), self.preprocessing.view(width, height)
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


class DecodingProcesses:
    """Decodes batches ahead in worker processes, or in this one where `count` is 0."""

    def __init__(self, decoder: Decoder, count: int, *, pin_memory: bool):
        """`pin_memory`: for a GPU."""
        self._decoder, self._count, self._pin_memory = decoder, count, pin_memory
        self._processes: Sequence[BaseProcess] = ()

    def batches(self, row_numbers: Iterator[range]) -> Iterator[Batch]:
        """The batches of these rows, in order. Raises ImagesError where the file system fails."""
        loader: DataLoader[Any] = DataLoader(
            self._decoder,
            batch_sampler=row_numbers,  # type: ignore[arg-type]  # ranges are lists enough
            num_workers=self._count,
            collate_fn=self._decoder.collate,
            pin_memory=self._pin_memory,
            worker_init_fn=partial(end_with_parent, os.getpid()),
            multiprocessing_context=START_METHOD if self._count else None,
        )
        batches = iter(loader)
        self._processes = getattr(batches, "_workers", ())
        for batch in batches:
            if batch.fault:
                raise ImagesError(
                    f"{batch.fault}; the file system failed, not the image: check the mount and run again"
                )
            yield batch

    def refuse_dead(self, error: RuntimeError) -> None:
        """Raise ExtractError if a process has ended otherwise than when told to; torch's own error says little."""
        dead = [process for process in self._processes if process.exitcode not in (None, 0)]
        if dead:
            raise ExtractError(
                f"{self._decoder.images.root}: expected decoding processes that live as long as the job, found one "
                f"that ended with {dead[0].exitcode}: {error}; memory may be short: use fewer --workers"
            ) from error
