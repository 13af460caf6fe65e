"""The teacher `saliency`, with the real OpenCV, through the real job."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from cli import main
from extract.errors import TeacherError
from extract.images.listing import list_images
from extract.job.run import run_job
from extract.settings import JobOptions, TeacherSpec
from extract.teacher.presets import make_teacher
from extract.teacher.saliency import SaliencyTeacher
from store import MapStore, StoreMismatch, verify
from tests.extract.conftest import MakeFolder
from tokenmix_loader import evidence

ASKED = {"name": "saliency", "kind": "activation"}


def teacher(**asked: Any) -> SaliencyTeacher:
    made = make_teacher(TeacherSpec(**{**ASKED, **asked}))
    assert isinstance(made, SaliencyTeacher)
    return made


def test_the_map_is_opencvs_averaged_over_tokens(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder({"a": ["1.png"]})
    pixels = np.random.default_rng(0).integers(0, 256, (96, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a" / "1.png")
    images = list_images(folder)
    run_job(images, tmp_path / "maps", teacher(input_size=(96, 64)), JobOptions(decoding_processes=0, dtype="float32"))
    algorithms: Any = cv2.saliency
    _, whole = algorithms.StaticSaliencyFineGrained_create().computeSaliency(pixels[:, :, ::-1])
    expected = [[whole[y : y + 16, x : x + 16].mean() for x in range(0, 64, 16)] for y in range(0, 96, 16)]
    maps = MapStore(tmp_path / "maps")
    assert maps.grid == (6, 4)
    np.testing.assert_allclose(maps.read(np.array([0]))[0], expected, rtol=1e-5)
    np.testing.assert_array_equal(maps.views(np.array([0])), [[0, 0, 1, 1]])


def test_what_stands_out_is_found() -> None:
    pixels = torch.full((1, 3, 288, 288), 90, dtype=torch.uint8)
    pixels[:, 0, 96:144, 192:240] = 250
    found = teacher().start(pixels, torch.tensor([0])).result().payload["activation"][0]
    inside = found[6:9, 12:15]
    assert found.shape == (18, 18)
    assert inside.mean() > 5 * (found.sum() - inside.sum()) / (found.numel() - inside.numel())


def test_flip_average_commutes_with_the_mirror() -> None:
    pixels = torch.randint(0, 256, (1, 3, 32, 64), dtype=torch.uint8)
    averaged = teacher(input_size=(32, 64), flip_average=True)
    one, two = (averaged.start(p, torch.tensor([0])).result().payload["activation"] for p in (pixels, pixels.flip(3)))
    torch.testing.assert_close(one, two.flip(2))


def test_commands(make_folder: MakeFolder, tmp_path: Path) -> None:
    """plan, extract, info, verify, show, submit; any number of classes."""
    folder = make_folder({"a": ["1.jpg", "2.jpg", "3.jpg"], "b": ["4.jpg"]})
    maps = tmp_path / "maps"
    options = ["--teacher", "saliency", "--kind", "activation", "--shard-size", "2"]

    def run(*arguments: str | Path) -> str:
        done = CliRunner().invoke(main, [str(a) for a in arguments])
        assert done.exit_code == 0, done.output
        return done.output

    assert "18 x 18" in run("plan", folder, *options)
    assert "no predictions" in run("extract", folder, maps, *options)
    assert "saliency, 0 parameters, no weights" in run("info", maps)
    assert MapStore(maps).header.teacher["digest"] == f"OpenCV {cv2.__version__}"
    run("verify", maps, "--images", folder)
    run("show", maps, "--images", folder, "-o", tmp_path / "show.png")
    script = run("submit", folder, tmp_path / "other", *options, "--tasks", "2", "--dry-run")
    assert "--teacher saliency --kind activation" in script


def test_a_broken_off_job_goes_on(make_folder: MakeFolder, tmp_path: Path) -> None:
    images = list_images(make_folder({"a": [f"{i}.jpg" for i in range(6)]}))
    options = JobOptions(decoding_processes=0, shard_rows=2, batch_size=2)
    batches = iter([False, False, True])
    first = run_job(images, tmp_path / "maps", teacher(), options, stop=lambda: next(batches, True))
    assert first.stopped
    assert run_job(images, tmp_path / "maps", teacher(), options).complete
    assert verify(tmp_path / "maps").ok
    maps = MapStore(tmp_path / "maps")
    assert maps.predictions.tolist() == [-1] * 6
    assert (evidence(maps.read(range(6))).sum((1, 2)) > 0).all()
    with pytest.raises(StoreMismatch, match="flip_average"):
        run_job(images, tmp_path / "maps", teacher(flip_average=True), options)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"kind": "label"}, "expected --kind activation, for it knows no classes, found --kind label"),
        ({"pretrained": True}, "no options of a model, found --pretrained"),
        ({"amp": "bf16"}, "no options of a model, found --amp"),
        ({"input_size": (100, 96)}, "multiples of 16 px, .*found 100 x 96"),
    ],
)
def test_what_it_cannot_do(asked: dict[str, Any], why: str) -> None:
    with pytest.raises(TeacherError, match=why):
        teacher(**asked)


@pytest.mark.parametrize("found", [None, ModuleType("cv2")])
def test_without_opencv_its_package_is_named(found: ModuleType | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """No module at all; and the OpenCV that most have, without the contributed ones."""
    monkeypatch.setitem(sys.modules, "cv2", found)
    with pytest.raises(TeacherError, match="pip install opencv-contrib-python-headless"):
        teacher()
