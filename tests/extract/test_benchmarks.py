"""The benchmarks of precision and of decoders, small."""

from pathlib import Path

import pytest

from benchmarks import decoders, precision
from benchmarks.photographs import write_photographs
from extract.images.listing import list_images
from recipes.context_digits.generate import generate


def test_rounding_to_half_moves_less_than_computing_in_bfloat16(tmp_path: Path) -> None:
    generate(tmp_path, 12, seed=0, split="test")
    found = precision.half_precision(list_images(tmp_path / "images"), precision.TRAINED, tmp_path)
    for what in ("map", "score"):
        stored, fp16, bf16 = (found[name]["logit"][what]["mean"] for name in ("stored float16", "fp16", "bf16"))
        assert 0 < stored < fp16 < bf16 < 0.02


@pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")  # torchvision's
def test_every_decoder_but_the_draft_gives_pillows_pixels(tmp_path: Path) -> None:
    files = [path.read_bytes() for path in write_photographs(tmp_path, 2, size=(1000, 752))]
    found, absent = decoders.installed()
    assert {*found, *absent} == {"Pillow", "Pillow, draft", *decoders.OTHERS}
    largest = {name: decoders.differences(decode, files)["largest_step"] for name, decode in found.items()}
    assert largest.pop("Pillow, draft") > 0
    assert set(largest.values()) == {0}
