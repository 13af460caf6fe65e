"""JPEG decoders: how fast beside Pillow, and how far their pixels are from its, which training sees.

    python -m benchmarks.decoders            # a minute; writes benchmarks/results/decoders.json

Photographs of 500 x 375 px, ImageNet's usual size, and of 1200 x 900 px, JPEG quality 95. The decoders take turns over
the same files, round after round: decoding alone, and with timm's evaluation transform behind it, which is what a
decoding process does. Differences are in steps of 8 bits, of the teacher's input of 224 px. What is not installed is
left out and named (pip install simplejpeg PyTurboJPEG; the latter needs the system's libturbojpeg).
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
import torch
from PIL import Image
from timm.data import create_transform

from benchmarks.photographs import write_photographs
from benchmarks.read import machine

Pixels = npt.NDArray[np.uint8]
Decode = Callable[[bytes], Pixels]
SIZES = {(500, 375): 64, (1200, 900): 16}  # px -> images
RESIZED_PX = 236  # the short side before the crop of 224
TRANSFORM = create_transform(224, crop_pct=0.95, interpolation="bicubic", normalize=False)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "decoders.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    decoders, absent = installed()
    sizes = {}
    for size, count in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            files = [path.read_bytes() for path in write_photographs(Path(folder), count, size=size)]
        name = "{} x {}".format(*size)
        sizes[name] = compare(decoders, files, given.rounds)
        print(name, *(f"  {decoder:24}{json.dumps(figures)}" for decoder, figures in sizes[name].items()), sep="\n")
    print("\n".join(f"{name:26}absent: {why}" for name, why in absent.items()))
    document = {"sizes": sizes, "absent": absent, "pillow": PIL.__version__, "machine": machine()}
    given.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def compare(decoders: dict[str, Decode], files: Sequence[bytes], rounds: int) -> dict[str, dict[str, float]]:
    """Of every decoder: its speed and that of the whole path in Pillow's, and how far its pixels are off."""
    alone = take_turns({name: each_of(files, decode) for name, decode in decoders.items()}, rounds)
    whole = take_turns({name: each_of(files, partial(input_of, decode)) for name, decode in decoders.items()}, rounds)
    return {
        name: {
            "rate": round(alone["Pillow"] / alone[name], 2),
            "rate_with_transform": round(whole["Pillow"] / whole[name], 2),
            **differences(decode, files),
        }
        for name, decode in decoders.items()
    }


def pillow(data: bytes) -> Pixels:
    """As timm's ImageDataset, and so as training."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def pillow_draft(data: bytes) -> Pixels:
    """At half, a quarter or an eighth of the size where that still covers the teacher's input."""
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (RESIZED_PX, RESIZED_PX))
    return np.asarray(image.convert("RGB"))


def installed() -> tuple[dict[str, Decode], dict[str, str]]:
    """The decoders at hand, Pillow first, and why the others are not."""
    decoders: dict[str, Decode] = {"Pillow": pillow, "Pillow, draft": pillow_draft}
    absent = {}
    for name, make in OTHERS.items():
        try:
            decoders[name] = make()
        except (ImportError, OSError, RuntimeError) as error:
            absent[name] = f"{type(error).__name__}: {error}".partition("\n")[0][:100]
    return decoders, absent


def torchvision_() -> Decode:
    """`decode_jpeg`, on the CPU; deprecated since torchvision 0.29."""
    tvio: Any = importlib.import_module("torchvision.io")

    def decode(data: bytes) -> Pixels:
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        pixels: Pixels = tvio.decode_jpeg(encoded, mode=tvio.ImageReadMode.RGB).permute(1, 2, 0).numpy()
        return pixels

    decode(pillow_jpeg())  # a build without libjpeg says so at the first call
    return decode


def opencv() -> Decode:
    """`imdecode`, without EXIF rotation."""
    cv2: Any = importlib.import_module("cv2")
    cv2.setNumThreads(1)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    return lambda data: cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), flags), cv2.COLOR_BGR2RGB)


def simplejpeg_() -> Decode:
    """With its own copy of libjpeg-turbo; neither fast DCT nor fast upsampling."""
    simplejpeg: Any = importlib.import_module("simplejpeg")
    return lambda data: simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False)


def turbojpeg() -> Decode:
    """With the system's libturbojpeg."""
    module: Any = importlib.import_module("turbojpeg")
    decoder = module.TurboJPEG()
    return lambda data: decoder.decode(data, pixel_format=module.TJPF_RGB)


OTHERS = {"torchvision": torchvision_, "OpenCV": opencv, "simplejpeg": simplejpeg_, "PyTurboJPEG": turbojpeg}


def pillow_jpeg() -> bytes:
    """The smallest image that a decoder can be tried on."""
    encoded = io.BytesIO()
    Image.new("RGB", (8, 8)).save(encoded, "JPEG")
    return encoded.getvalue()


def each_of(files: Sequence[bytes], action: Callable[[bytes], object]) -> Callable[[], None]:
    """`action` on one file after the other."""

    def run() -> None:
        for data in files:
            action(data)

    return run


def take_turns(actions: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of every action; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(rounds + 1):
        for name, action in actions.items():
            started = time.process_time()
            action()
            if turn:
                seconds[name].append(time.process_time() - started)
    return {name: statistics.median(found) for name, found in seconds.items()}


def differences(decode: Decode, files: Sequence[bytes]) -> dict[str, float]:
    """From the input made of Pillow's pixels: mean and largest step."""
    steps = torch.stack([(as_input(decode(data)) - as_input(pillow(data))).abs() for data in files])
    return {"mean_step": round(float(steps.double().mean()), 3), "largest_step": int(steps.max())}


def input_of(decode: Decode, data: bytes) -> torch.Tensor:
    """What a decoding process makes of a file."""
    return as_input(decode(data))


def as_input(pixels: Pixels) -> torch.Tensor:
    """The teacher's input, int16 [3, 224, 224]."""
    shown: torch.Tensor = TRANSFORM(Image.fromarray(pixels))
    return shown.to(torch.int16)


if __name__ == "__main__":
    main()
