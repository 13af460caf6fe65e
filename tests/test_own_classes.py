"""From images of one's own classes to their maps: a head is fitted, used, kept in the header, and refused elsewhere."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

import extract
from cli import main
from extract import FitOptions, TeacherSpec
from extract.images import list_images
from extract.teacher.heads import load_head, save_head
from recipes.context_digits.demo import TEACHER as WEIGHTS
from recipes.context_digits.generate import generate
from store import MapStore
from store.folder.head import read_head

NONSENSE = ("quab", "dax", "fep", "gorp", "hux", "kiv", "lom", "mub", "nerp", "blip")  # 0 to 9
INPUT = ["--input-size", "96", "--crop-mode", "squash", "--crop-pct", "1", "--device", "cpu", "--workers", "0"]
BACKBONE = ["--teacher", "test_resnet", "--num-classes", "10", "--model-arg", "output_stride=8", *INPUT]
TEACHER = [*BACKBONE, "--checkpoint", str(WEIGHTS)]
SPEC = TeacherSpec("test_resnet", checkpoint=WEIGHTS, num_classes=10, input_size=(96, 96), crop_mode="squash",
                   crop_pct=1.0, model_args={"output_stride": 8}, device="cpu")  # fmt: skip


def tokenmix(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


def fails(result: Result, *parts: str) -> None:
    assert result.exit_code == 1, result.output
    for part in parts:
        assert part in result.output
    assert "Traceback" not in result.output


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits under names that no label set knows, in another order than the teacher's outputs."""
    root = tmp_path_factory.mktemp("digits")
    generate(root, 100, seed=1, split="test")
    for digit, name in enumerate(NONSENSE):
        (root / "images" / str(digit)).rename(root / "images" / name)
    return root / "images"


@pytest.fixture(scope="module")
def head(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("head") / "head.safetensors"
    done = tokenmix("fit-head", images, "-o", path, *TEACHER)
    assert done.exit_code == 0, done.output
    assert "on 20 images held out to choose it: top-1" in done.output
    assert f"{path}: 10 classes on 96 features, digest {load_head(path).digest}" in done.output
    return path


def test_what_the_file_says(images: Path, head: Path) -> None:
    loaded = load_head(head)
    assert loaded.class_names == tuple(sorted(NONSENSE))
    assert (loaded.backbone.name, loaded.backbone.outputs) == ("test_resnet", 10)
    assert loaded.held_out is not None
    assert (loaded.held_out.images, loaded.held_out.classes) == (20, 10)
    assert loaded.held_out.top1 >= 0.8
    assert loaded.images_digest == list_images(images).digest


@pytest.mark.parametrize("kind", ["label", "topk", "cam", "activation", "features"])
def test_extract_and_verify(kind: str, images: Path, head: Path, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    done = tokenmix("extract", images, maps, *TEACHER, "--head", head, "--kind", kind)
    assert done.exit_code == 0, done.output
    assert "its outputs for the classes: by name, as the head has them" in done.output
    store = MapStore(maps)
    stored: Any = store.header.teacher["head"]
    assert stored["digest"] == load_head(head).digest
    assert stored["accuracy"]["top1"] >= 0.8
    assert store.header.teacher_class.tolist() == list(range(10))
    assert (store.predictions == store.header.teacher_class[store.labels]).mean() > 0.9
    if kind == "features":
        np.testing.assert_allclose(read_head(maps, store.header).weight, load_file(head)["weight"], atol=1e-4)
    deep = ["verify", maps, "--images", images, "--deep", 3, "--checkpoint", WEIGHTS]
    assert tokenmix(*deep, "--head", head).exit_code == 0
    fails(tokenmix(*deep), "expected a head of its own, as the store has it; give --head FILE")


def test_another_head_neither_resumes_nor_verifies(images: Path, head: Path, tmp_path: Path) -> None:
    maps, other = tmp_path / "maps", tmp_path / "other.safetensors"
    assert tokenmix("extract", images, maps, *TEACHER, "--head", head).exit_code == 0
    fitted = load_head(head)
    save_head(replace(fitted, bias=fitted.bias + 1), other)
    fails(tokenmix("extract", images, maps, *TEACHER, "--head", other), "teacher.head.digest: stored")
    deep = ["verify", maps, "--images", images, "--deep", 3, "--checkpoint", WEIGHTS, "--head", other]
    fails(tokenmix(*deep), "teacher.head: expected", "give the --head that the maps were made with")


def test_other_weights_and_other_classes_are_refused(images: Path, head: Path, tmp_path: Path) -> None:
    fails(
        tokenmix("extract", images, tmp_path / "a", *BACKBONE, "--random-weights", 0, "--head", head),
        "expected one that was fitted on this teacher's weights", "found one of test_resnet",
        "or fit a head again on these",
    )  # fmt: skip
    generate(tmp_path / "set", 10, seed=0, split="test")
    fails(
        tokenmix("extract", tmp_path / "set" / "images", tmp_path / "b", *TEACHER, "--head", head),
        "expected names of the head's 10 classes ('blip', 'dax', 'fep', ...), found 10 others: '0', '1', '2', ...",
    )
    done = tokenmix(
        "extract", tmp_path / "set" / "images", tmp_path / "c", *TEACHER, "--head", head, "--kind", "activation"
    )
    assert done.exit_code == 0, done.output


def test_a_subset_of_the_classes_needs_no_map(images: Path, head: Path, tmp_path: Path) -> None:
    for name in ("kiv", "dax"):
        (tmp_path / "few").mkdir(exist_ok=True)
        (tmp_path / "few" / name).symlink_to(images / name)
    assert tokenmix("extract", tmp_path / "few", tmp_path / "maps", *TEACHER, "--head", head).exit_code == 0
    assert MapStore(tmp_path / "maps").header.teacher_class.tolist() == [1, 5]


@pytest.mark.parametrize("processes", [0, 2])
def test_decoding_processes_change_nothing(processes: int, images: Path, head: Path, tmp_path: Path) -> None:
    extract.fit_head(images, tmp_path / "h", SPEC, FitOptions(decoding_processes=processes))
    assert (tmp_path / "h").read_bytes() == head.read_bytes()


def test_a_head_for_a_class_token_model(images: Path, tmp_path: Path) -> None:
    """Such a model has no exact maps of its own; with a head on its patches it has."""
    teacher = [
        "--teacher",
        "test_vit",
        "--random-weights",
        "0",
        "--input-size",
        "160",
        "--workers",
        "0",
        "--device",
        "cpu",
    ]
    assert tokenmix("fit-head", images, "-o", tmp_path / "h", *teacher).exit_code == 0
    done = tokenmix("extract", images, tmp_path / "maps", *teacher, "--head", tmp_path / "h")
    assert done.exit_code == 0, done.output
    store = MapStore(tmp_path / "maps")
    assert store.header.teacher["route"] == "tokens through forward_head, NHWC, affine"
    assert store.header.teacher["class_token"] is False


def few(images: Path, target: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        (target / name).mkdir(parents=True)
        for path in sorted((images / name).iterdir())[:count]:
            (target / name / path.name).write_bytes(path.read_bytes())
    return target


def test_one_image_per_class(images: Path, tmp_path: Path) -> None:
    folder = few(images, tmp_path / "few", dict.fromkeys(NONSENSE, 1))
    done = tokenmix("fit-head", folder, "-o", tmp_path / "h", *TEACHER)
    assert done.exit_code == 0, done.output
    assert "not tested: every class has one image, so none could be held out" in done.output
    assert load_head(tmp_path / "h").held_out is None
    assert tokenmix("extract", images, tmp_path / "maps", *TEACHER, "--head", tmp_path / "h").exit_code == 0
    store = MapStore(tmp_path / "maps")
    assert store.header.teacher["head"]["accuracy"] is None  # type: ignore[call-overload, index]
    assert (store.predictions == store.header.teacher_class[store.labels]).mean() > 0.7


def test_some_classes_with_one_image(images: Path, tmp_path: Path) -> None:
    folder = few(images, tmp_path / "few", {"dax": 1, "kiv": 6, "lom": 6})
    done = tokenmix("fit-head", folder, "-o", tmp_path / "h", *TEACHER)
    assert done.exit_code == 0, done.output
    assert "mean over 2 classes" in done.output
    assert "; 1 classes with one image are not among these" in done.output


def test_unreadable_images(images: Path, tmp_path: Path) -> None:
    folder = few(images, tmp_path / "few", {"dax": 4, "kiv": 4})
    for name in ("dax", "kiv"):
        (folder / name / "broken.jpg").write_bytes(b"no image")
    fit = ["fit-head", folder, "-o", tmp_path / "h", *TEACHER]
    fails(tokenmix(*fit), "expected at most 1 unreadable images, found 2 in 10", "'dax/broken.jpg': no image format")
    assert not (tmp_path / "h").exists()
    assert tokenmix(*fit, "--max-errors", 2).exit_code == 0
    for path in (folder / "kiv").iterdir():
        path.write_bytes(b"no image")
    fails(tokenmix(*fit, "--max-errors", 9), "expected a readable image of every class, found none of 'kiv'")


def test_what_cannot_be_fitted_is_refused_before_the_pass(images: Path, tmp_path: Path) -> None:
    one = few(images, tmp_path / "one", {"dax": 2})
    fails(tokenmix("fit-head", one, "-o", tmp_path / "h", *TEACHER), "at least two classes, found 1")
    nowhere = tmp_path / "none" / "h"
    fails(tokenmix("fit-head", images, "-o", nowhere, *TEACHER), "expected a file in a folder that exists")
    fails(tokenmix("fit-head", images, "-o", tmp_path / "h", "--teacher", "saliency"), "expected a timm model")


@pytest.mark.parametrize("asks", [1, 3, 20])
def test_a_stop_is_honoured_in_the_pass_and_in_the_fit(asks: int, images: Path, tmp_path: Path) -> None:
    asked: list[None] = []

    def stop() -> bool:
        asked.append(None)
        return len(asked) >= asks

    assert extract.fit_head(images, tmp_path / "h", SPEC, FitOptions(decoding_processes=0), stop=stop) is None
    assert len(asked) == asks
    assert list(tmp_path.iterdir()) == []


def test_a_signal_ends_with_75(images: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cli", "fit-head", images, "-o", tmp_path / "h", *TEACHER, "--batch-size", "1"]
    job = subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, text=True)
    assert job.stderr is not None
    for line in job.stderr:
        if "img/s" in line:
            break
    os.kill(job.pid, signal.SIGTERM)
    began = time.monotonic()
    assert job.wait(60) == 75
    assert time.monotonic() - began < 30
    assert "stopped by SIGTERM; nothing was written" in job.stderr.read()
    job.stderr.close()
    assert list(tmp_path.iterdir()) == []


def test_mean_of_a_map_is_the_logit_of_the_new_class(images: Path, head: Path, tmp_path: Path) -> None:
    assert tokenmix("extract", images, tmp_path / "l", *TEACHER, "--head", head, "--dtype", "float32").exit_code == 0
    assert tokenmix("extract", images, tmp_path / "f", *TEACHER, "--kind", "features", "--dtype", "float32",
                    "--head", head).exit_code == 0  # fmt: skip
    label, features, file = MapStore(tmp_path / "l"), MapStore(tmp_path / "f"), load_file(head)
    rows = range(len(label))
    pooled = torch.from_numpy(np.array(features.read_features(rows))).mean((2, 3))
    logits = pooled @ file["weight"].T + file["bias"]
    wanted = logits[torch.arange(len(label)), torch.from_numpy(label.header.teacher_class[label.labels])]
    np.testing.assert_allclose(label.read(rows).mean((1, 2)), wanted, rtol=1e-4, atol=1e-5)
