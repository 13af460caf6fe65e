"""Decoding: images that are odd but readable, and everything that is not."""

import io
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from extract.errors import ImagesError
from extract.images.listing import list_images
from extract.job.decoding import Decoder
from extract.teacher.preprocess import Preprocessing
from tests.extract.conftest import MakeFolder, ramp


def make_decoder(root: Path, mode: str, size: tuple[int, int] = (32, 32)) -> Decoder:
    return Decoder(list_images(root), Preprocessing(size, mode, 0.9, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))


def save(image: Image.Image, suffix: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, suffix, **options)
    return out.getvalue()


READABLE: dict[str, Callable[[], bytes]] = {
    "alpha.png": lambda: save(ramp(40, 30).convert("RGBA"), "PNG"),
    "palette.png": lambda: save(ramp(40, 30).convert("P"), "PNG", transparency=b"\x00\x80"),
    "grey.jpg": lambda: save(ramp(40, 30).convert("L"), "JPEG"),
    "cmyk.jpg": lambda: save(ramp(40, 30).convert("CMYK"), "JPEG"),
    "sixteen.png": lambda: save(Image.fromarray(np.full((30, 40), 30000, np.uint16)), "PNG"),
    "dot.png": lambda: save(ramp(1, 1), "PNG"),
    "wide.jpg": lambda: save(ramp(20000, 400), "JPEG"),
    "file name with\nnewline é.jpg": lambda: save(ramp(40, 30), "JPEG"),
}


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_odd_but_readable_images(mode: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name, content in READABLE.items():
        (tmp_path / "a" / name).write_bytes(content())
    decoder = make_decoder(tmp_path, mode)
    for row in range(len(READABLE)):
        sample = decoder[row]
        assert sample.error == ""
        assert sample.pixels is not None
        assert sample.pixels.shape == (3, 32, 32)


UNREADABLE: dict[str, Callable[[], bytes]] = {
    "empty.jpg": lambda: b"",
    "text.jpg": lambda: b"<html>404 Not Found</html>",
    "truncated.jpg": lambda: save(ramp(400, 300), "JPEG")[:2000],
    "truncated.png": lambda: save(ramp(400, 300), "PNG")[:-200],
}


def test_unreadable_images_give_their_reason_and_a_black_row(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name, content in UNREADABLE.items():
        (tmp_path / "a" / name).write_bytes(content())
    decoder = make_decoder(tmp_path, "center")
    samples = [decoder[row] for row in range(len(UNREADABLE))]
    assert all(s.error and not s.fault and s.pixels is None for s in samples), samples
    assert not any("0x" in s.error for s in samples), "an address in a stored reason: no two runs would agree"
    batch = decoder.collate(samples)
    assert batch.pixels.shape == (4, 3, 32, 32)
    assert not batch.pixels.any()
    assert batch.fault == ""


def test_an_image_too_long_to_resize_is_refused_not_allocated(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    ramp(20000, 1).save(tmp_path / "a" / "line.png")
    sample = make_decoder(tmp_path, "center", size=(448, 448))[0]
    assert "use --crop-mode squash" in sample.error
    assert make_decoder(tmp_path, "squash", size=(448, 448))[0].error == ""


def raising(error: Exception) -> Callable[..., None]:
    def call(*_: object) -> None:
        raise error

    return call


def test_whatever_pillow_raises_is_the_image_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text chunk that unpacks to too much, a bomb, a broken header, too deep a nesting."""
    text = PngInfo()
    text.add_itxt("comment", "x" * 2**21, zip=True)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "bomb.png").write_bytes(save(Image.new("L", (1000, 1000)), "PNG"))
    (tmp_path / "a" / "text.png").write_bytes(save(ramp(40, 30), "PNG", pnginfo=text))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400_000)
    decoder = make_decoder(tmp_path, "center")
    reasons = [decoder[row].error for row in range(2)]
    assert [reason.partition(":")[0] for reason in reasons] == ["DecompressionBombError", "ValueError"]
    for error in (SyntaxError("no header"), RecursionError("too deep")):
        monkeypatch.setattr(Image, "open", raising(error))
        assert decoder[1].error == f"{type(error).__name__}: {error}"


def test_warnings_make_no_image_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Pillow's, which `python -W error` makes errors of, as these tests do."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    (tmp_path / "a").mkdir()
    ramp(40, 30).save(tmp_path / "a" / "large.png")
    sample = make_decoder(tmp_path, "center")[0]
    assert sample.error == ""
    assert sample.pixels is not None


def test_memory_that_is_short_is_no_fault_of_the_image(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = make_decoder(make_folder({"a": ["1.jpg"]}), "center")
    monkeypatch.setattr(Image, "open", raising(MemoryError()))
    sample = decoder[0]
    assert sample.error == ""
    assert re.search("'a/1.jpg': MemoryError.*fewer --workers", sample.fault)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied"), "Permission denied.*the file system failed"),
        (ValueError("no column"), "ValueError: no column; its container cannot be read"),
        (ImagesError("shard 3: cut short; download it again"), "^shard 3: cut short; download it again$"),
    ],
)
def test_whatever_a_container_raises_names_the_image(
    error: Exception, said: str, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = make_decoder(make_folder({"a": ["1.jpg"]}), "center")
    monkeypatch.setattr(type(decoder.images), "open", raising(error))
    sample = decoder[0]
    assert sample.error == ""
    assert re.search(said, sample.fault)
    assert isinstance(error, ImagesError) or "'a/1.jpg'" in sample.fault


def test_a_vanished_image_is_a_fault_of_the_file_system(make_folder: MakeFolder) -> None:
    root = make_folder({"a": ["1.jpg"]})
    decoder = make_decoder(root, "center")
    os.remove(root / "a" / "1.jpg")
    sample = decoder[0]
    assert "a/1.jpg" in sample.fault
    assert sample.error == ""
