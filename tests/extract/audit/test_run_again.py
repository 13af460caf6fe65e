"""verify --deep: the teacher of the header, built again, gives what is stored; maps made by another one are found."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from PIL import Image

from cli import main
from extract.audit.run_again import rebuild_teacher, rerun_teacher
from extract.errors import TeacherError
from extract.images.image_list import ImageList
from extract.images.listing import list_images
from extract.job.run import run_job
from extract.settings import JobOptions, TeacherSpec
from extract.teacher.timm_teacher import TimmTeacher
from store import read_header
from tests.extract.conftest import MakeFolder

SPEC = TeacherSpec("test_resnet", random_weights=0, num_classes=2, input_size=(64, 64), model_args={"output_stride": 8})
KINDS: dict[str, dict[str, Any]] = {
    "label": {},
    "uint8": {},
    "cam": {"cam_stage": "layer2"},
    "topk": {"top_k": 2},
    "features": {"flip_average": True, "crop_mode": "squash"},
}


def save_weights(spec: TeacherSpec, path: Path) -> None:
    weights = {name: tensor.contiguous() for name, tensor in TimmTeacher(spec).model.state_dict().items()}
    safetensors.torch.save_file(weights, path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "weights.safetensors"
    save_weights(SPEC, path)
    return path


@pytest.fixture
def images(make_folder: MakeFolder) -> ImageList:
    root = make_folder({"cat": ["a.jpg", "b.jpg", "torn.jpg"], "dog": ["a.jpg", "b.jpg"]})
    (root / "cat" / "torn.jpg").write_bytes(b"")
    return list_images(root)


def extract(images: ImageList, store: Path, kind: str = "label", **changes: Any) -> None:
    options = JobOptions("uint8" if kind == "uint8" else "float16", shard_rows=2, decoding_processes=0)
    spec = replace(SPEC, kind="label" if kind == "uint8" else kind, **changes)
    run_job(images, store, TimmTeacher(spec), options)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_stored_is_what_the_teacher_says(
    kind: str, images: ImageList, checkpoint: Path, tmp_path: Path
) -> None:
    extract(images, tmp_path / "maps", kind, **KINDS[kind])
    report = rerun_teacher(tmp_path / "maps", images, 99, checkpoint=checkpoint, device="cpu")
    assert (report.rows, report.problems) == (5, ())
    assert report.max_error < report.tolerance
    assert (report.max_error > 0) == (kind == "uint8")  # the same machine says the same


def test_classes_are_not_outputs(images: ImageList, tmp_path: Path) -> None:
    """A teacher of five classes, whose outputs 4 and 1 show the two of the dataset."""
    spec = replace(SPEC, num_classes=5)
    save_weights(spec, tmp_path / "weights.safetensors")
    run_job(images, tmp_path / "maps", TimmTeacher(spec), JobOptions(shard_rows=2, decoding_processes=0), (4, 1))
    report = rerun_teacher(tmp_path / "maps", images, 99, checkpoint=tmp_path / "weights.safetensors", device="cpu")
    assert (report.rows, report.problems) == (5, ())


def test_another_image_of_the_same_name_is_found(images: ImageList, checkpoint: Path, tmp_path: Path) -> None:
    extract(images, tmp_path / "maps")
    (images.root / "cat" / "a.jpg").write_bytes((images.root / "dog" / "a.jpg").read_bytes())  # of another size
    (images.root / "cat" / "torn.jpg").write_bytes((images.root / "cat" / "b.jpg").read_bytes())
    (images.root / "dog" / "b.jpg").unlink()
    report = rerun_teacher(tmp_path / "maps", list_images(images.root), 5, checkpoint=checkpoint, device="cpu")
    assert [problem.partition(": teacher run again: ")[0] for problem in report.problems] == [
        "row 4, key 'dog/b.jpg'",
        "row 0, key 'cat/a.jpg'",
        "row 2, key 'cat/torn.jpg'",
    ]
    assert "found none of this name" in report.problems[0]
    assert "expected an image of [64, 48] px, found [70, 40]" in report.problems[1]
    assert "expected no image format that Pillow knows, found a readable image" in report.problems[2]


def test_maps_of_other_weights_are_found(images: ImageList, checkpoint: Path, tmp_path: Path) -> None:
    """As if somebody had trained on, and written the header by hand."""

    class Trained(TimmTeacher):
        def __init__(self, spec: TeacherSpec):
            super().__init__(spec)
            with torch.no_grad():
                self.model.fc.weight *= 1.5  # type: ignore[operator,union-attr]

    run_job(images, tmp_path / "maps", Trained(SPEC), JobOptions(shard_rows=2, decoding_processes=0))
    report = rerun_teacher(tmp_path / "maps", images, 2, seed=1, checkpoint=checkpoint, device="cpu")
    assert report.max_error > report.tolerance
    assert len(report.problems) == 2
    assert "expected an error of at most 0.005" in report.problems[0]


def test_a_teacher_that_cannot_be_built_again(images: ImageList, checkpoint: Path, tmp_path: Path) -> None:
    extract(images, tmp_path / "maps")
    with pytest.raises(TeacherError, match="found random weights; give the weights' file as --checkpoint"):
        rerun_teacher(tmp_path / "maps", images, 1, device="cpu")
    other = tmp_path / "other.safetensors"
    save_weights(replace(SPEC, random_weights=1), other)
    with pytest.raises(
        TeacherError, match=f"teacher.digest: expected '{read_header(tmp_path / 'maps').teacher['digest']}"
    ):
        rerun_teacher(tmp_path / "maps", images, 1, checkpoint=other, device="cpu")


def test_the_command(images: ImageList, checkpoint: Path, tmp_path: Path) -> None:
    def verify(*arguments: object) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["verify", str(tmp_path / "maps"), *map(str, arguments)])
        return done.exit_code, done.output

    extract(images, tmp_path / "maps")
    deep = ("--images", images.root, "--deep", 3, "--checkpoint", checkpoint)
    status, said = verify(*deep)
    assert (status, said.splitlines()[0][:28]) == (0, "3 rows again: largest error ")
    sound = (images.root / "cat" / "a.jpg").read_bytes()
    (images.root / "cat" / "a.jpg").write_bytes((images.root / "dog" / "a.jpg").read_bytes())
    assert verify(*deep, "--sample", 0, "--seed", 3, "--deep", 5)[0] == 1
    (images.root / "cat" / "a.jpg").write_bytes(sound)
    assert verify("--deep", 3)[0] == 2
    raw = bytearray((tmp_path / "maps" / "shard-00001.h5").read_bytes())
    raw[-1] ^= 1
    (tmp_path / "maps" / "shard-00001.h5").write_bytes(raw)
    status, said = verify("--repair", *deep)
    assert status == 1
    assert "shard-00001.h5: damaged, removed" in said
    assert "--deep was left out" in said
    extract(images, tmp_path / "maps")
    assert verify()[0] == 0


def test_a_field_that_the_teacher_built_again_lacks_is_named(
    images: ImageList, checkpoint: Path, tmp_path: Path
) -> None:
    """Such as where tokens look, by another release of a library; the other way round it was named before."""
    extract(images, tmp_path / "maps")
    header = read_header(tmp_path / "maps")
    assert "token_view" not in header.preprocessing
    other = replace(header, preprocessing={**header.preprocessing, "token_view": [0.1, 0, 1.1, 1]})
    with pytest.raises(TeacherError, match=r"preprocessing.token_view: expected \[0.1, 0, 1.1, 1\], .* found None"):
        rebuild_teacher(other, checkpoint, None, "cpu")


def test_another_file_of_the_same_name_and_shape_is_found(images: ImageList, checkpoint: Path, tmp_path: Path) -> None:
    extract(images, tmp_path / "maps")
    with Image.open(images.root / "cat" / "a.jpg") as image:
        image.transpose(Image.Transpose.ROTATE_180).save(images.root / "cat" / "a.jpg")
    (problem,) = rerun_teacher(tmp_path / "maps", images, 5, checkpoint=checkpoint, device="cpu").problems
    assert problem.startswith("row 0, key 'cat/a.jpg': teacher run again: expected the file of fingerprint ")
