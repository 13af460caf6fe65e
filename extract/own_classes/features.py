"""One pass over the images: the pooled features of a backbone, those that a head of one's own works on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import torch

from extract.errors import TeacherError
from extract.images.image_list import ImageList
from extract.job.decoding import Batch, Decoder
from extract.job.processes.patience import reporting_slow, spell_slow
from extract.job.processes.pool import DecodingProcesses
from extract.job.processes.signals import Stopped
from extract.job.progress import Progress
from extract.own_classes.spool import Spool
from extract.settings import FitOptions, TeacherSpec
from extract.teacher.heads import Backbone, find_tokens
from extract.teacher.model import autocast, build_model, to_device
from extract.teacher.preprocess import Normaliser, Preprocessing
from extract.teacher.presets import on_this_machine
from extract.teacher.weights import weights_digest


class PooledFeatures:
    """A backbone up to the mean of its tokens."""

    def __init__(self, spec: TeacherSpec):
        """Build, load, check and move to the device. Raises TeacherError."""
        self.spec = spec = on_this_machine(spec)
        model = build_model(spec)
        self.preprocessing = Preprocessing.of_model(
            model, input_size=spec.input_size, crop_mode=spec.crop_mode, crop_pct=spec.crop_pct
        )
        digest = weights_digest(model)
        self._source = find_tokens(model, self.preprocessing.input_size)
        outputs = int(model.num_classes)  # type: ignore[arg-type]
        self.backbone = Backbone(spec.name, digest, str(self._source), outputs)
        self.device = to_device(model, str(spec.device))
        self._normalise = Normaliser(self.preprocessing, self.device)

    @torch.no_grad()
    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 [B, 3, H, W] -> float32 [B, C], on the CPU."""
        with autocast(self.spec):
            tokens = self._source.tokens(self._normalise(pixels))
        return tokens.float().mean((1, 2)).cpu()


def spool_features(
    images: ImageList,
    pooled: PooledFeatures,
    spool: Spool,
    options: FitOptions,
    *,
    on_progress: Callable[[Progress], None],
    stop: Callable[[], bool],
    say: Callable[[str], None],
) -> list[int]:
    """Put the features of all readable images into the spool, in order; returns the rows of these images.

    Raises Stopped; ImagesError where the file system fails or too many images are unreadable; TeacherError for
    features that are not finite; ExtractError where a decoding process died.
    """
    progress, started, rows = Progress(len(images)), time.monotonic(), list[int]()
    allowed = math.ceil(len(images) / 1000) if options.max_errors is None else options.max_errors
    count = min(options.decoding_processes, math.ceil(len(images) / options.batch_size))
    decoder = Decoder(images, pooled.preprocessing)
    decoding = DecodingProcesses(decoder, count, pin_memory=pooled.device.type == "cuda")
    slow_reported = reporting_slow(decoding.in_hand, lambda waiting: say(spell_slow(waiting)))
    try:
        with slow_reported:
            for batch in decoding.batches(_batches(len(images), options.batch_size)):
                if stop():
                    raise Stopped("computing features")
                readable = [place for place, error in enumerate(batch.error) if not error]
                features = pooled(batch.pixels)[readable]
                _check_finite(features, images, batch, readable)
                spool.append(features.numpy())
                rows += [batch.rows[place] for place in readable]
                named = zip((images.keys[row] for row in batch.rows), batch.error, strict=True)
                progress.errors += [(key, reason) for key, reason in named if reason]
                progress.done, progress.seconds = progress.done + len(batch.rows), time.monotonic() - started
                progress.refuse_errors_beyond(allowed)
                on_progress(progress)
    except RuntimeError as error:  # torch raises it wherever this process is when a decoding process dies
        decoding.refuse_dead(error)
        raise
    return rows


def _batches(count: int, size: int) -> Iterator[range]:
    return (range(start, min(start + size, count)) for start in range(0, count, size))


def _check_finite(features: torch.Tensor, images: ImageList, batch: Batch, readable: list[int]) -> None:
    broken = (~features.isfinite().all(1)).nonzero()
    if len(broken):
        key = images.keys[batch.rows[readable[int(broken[0])]]]
        raise TeacherError(f"{key!r}: expected finite features, found others; use --amp none, or check the weights")
