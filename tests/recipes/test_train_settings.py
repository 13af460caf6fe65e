"""Settings of the paper's recipe: their defaults, what each does, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from recipes.train.settings import Settings, TrainingError
from recipes.train.train import main, train
from store import StoreMismatch
from tests.recipes.test_train import BRIEF, SMALL, Digits, _one_thread, digits, largest_difference, run, weights

__all__ = ["_one_thread", "digits"]  # fixtures


def test_defaults_are_those_of_table_12() -> None:
    settings = Settings()
    assert settings.peak_lr == 1e-3
    assert (settings.batch_size, settings.epochs, settings.warmup_epochs, settings.min_lr) == (1024, 300, 5, 1e-6)
    assert (settings.weight_decay, settings.drop_path, settings.smoothing, settings.reprob) == (0.05, 0.1, 0.1, 0.25)
    assert (settings.aa, settings.loss) == ("rand-m9-mstd0.5-inc1", "bce")
    assert (settings.mixup, settings.switch_prob, settings.mix_prob) == (0.8, 0.5, 1.0)
    assert (settings.mask_kind, settings.kept, settings.beta, settings.supervision) == ("block", 0.5, None, "tokenmix")


@pytest.mark.parametrize(
    "changed",
    [
        {"weight_decay": 0.5}, {"drop_path": 0.0}, {"clip_grad": 1e-3}, {"reprob": 0.0}, {"aa": "none"},
        {"crop_scale": (0.9, 1.0)}, {"hflip": 0.0}, {"precision": "bfloat16"}, {"loss": "ce"}, {"smoothing": 0.0},
        {"mixup": 0.0}, {"switch_prob": 1.0}, {"mix_prob": 0.0}, {"kept": 0.25}, {"seed": 1},
    ],
    ids=lambda changed: "".join(changed),
)  # fmt: skip
def test_every_setting_changes_the_weights(
    digits: Digits, tmp_path: Path, usual: dict[str, torch.Tensor], changed: dict[str, Any]
) -> None:
    run(digits, tmp_path, replace(BRIEF, **changed))
    assert largest_difference(usual, weights(tmp_path)) > 0


@pytest.fixture(scope="module")
def usual(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights after an epoch of six updates."""
    out = tmp_path_factory.mktemp("usual")
    run(digits, out, BRIEF)
    return weights(out)


def test_learning_rate_follows_batch_warm_up_and_cosine(digits: Digits, tmp_path: Path) -> None:
    assert Settings().peak_lr == 1e-3
    assert Settings(batch_size=256).peak_lr == 2.5e-4
    assert Settings(batch_size=256, lr=3e-4).peak_lr == 3e-4
    settings = replace(SMALL, epochs=4, batch_size=20, model="small_cnn", lr=1e-2, min_lr=1e-3, warmup_epochs=1)
    rates = [row["lr"] for row in run(digits, tmp_path, settings)]  # of each epoch's third and last update
    cosine = [1e-3 + 9e-3 * (1 + np.cos(np.pi * update / 12)) / 2 for update in (5, 8, 11)]
    assert rates == pytest.approx([1e-6 + (1e-2 - 1e-6) * 2 / 3, *cosine])


def test_blocks_have_a_fourteenth_of_all_tokens() -> None:
    assert Settings().mixing(14 * 14)["min_tokens"] == 14
    assert Settings().mixing(8 * 8)["min_tokens"] == 5
    assert Settings(min_tokens=3).mixing(8 * 8)["min_tokens"] == 3
    assert "min_tokens" not in Settings(mask_kind="attentive").mixing(8 * 8)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"grid": 5}, r"--grid: expected a divisor of the images' 32 x 32 px, found 5"),
        ({"model": "small_cnn", "img_size": 40}, r"--img-size: expected a multiple of 16 px"),
        ({"model": "deit_smal"}, r"--model: expected a name that timm .* found 'deit_smal'; .*such as deit"),
        ({"model_arg": ("depth",)}, r"--model-arg: expected NAME=VALUE, found 'depth'"),
        ({"model_arg": ("num_classes=5",)}, r"--model-arg: expected .* found num_classes; give --num-classes"),
        ({"aa": "rand-m9-std0.5"}, r"--aa: expected none, or .*found 'rand-m9-std0\.5'"),
        ({"model_arg": ("deep=3",)}, r"--model small_vit: expected a network that takes .*deep"),
        ({"num_classes": 9}, r"--num-classes: expected at least 10"),
        ({"batch_size": 61}, r"--batch-size: expected at most the 60 images, found 61"),
        ({"accumulate": 4}, r"--batch-size: expected a multiple of 4, .*found 30"),
        ({"mask_kind": "puzzle", "kept": 0.3}, r"kept: expected kind"),
        ({"mask_kind": "attentive", "min_tokens": 3}, r"min_tokens: expected kind"),
        ({"lr": 1e30, "epochs": 3, "warmup_epochs": 0}, r"epoch \d: loss: expected a number"),
    ],
)
def test_wrong_settings_are_refused_by_name(
    digits: Digits, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        run(digits, tmp_path, replace(SMALL, **changed))


@pytest.mark.parametrize("device", ["gpu", pytest.param("cuda", marks=pytest.mark.skipif(
    torch.cuda.is_available(), reason="has a GPU"))])  # fmt: skip
def test_a_device_that_is_not_there(digits: Digits, tmp_path: Path, device: str) -> None:
    with pytest.raises(TrainingError, match=f"--device {device}: expected a device that this machine has"):
        run(digits, tmp_path, SMALL, device=device)


def test_processes_that_cannot_be_found(digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a job of several tasks in which torchrun was not called."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):  # timm sets them, and here they are forgotten again
        monkeypatch.setenv(name, "0")
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_LOCALID", "0")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(TrainingError, match="start by torchrun"):
        run(digits, tmp_path, SMALL)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_one_line(digits: Digits, tmp_path: Path, workers: int) -> None:
    images = shutil.copytree(digits.images, tmp_path / "images")
    (path,) = images.glob("*/*-00011.*")
    path.write_bytes(path.read_bytes()[:200])
    options = f"--model small_vit --img-size 32 --epochs 1 --batch-size 60 --device cpu --workers {workers}"
    done = CliRunner().invoke(main, [str(images), str(digits.maps), *options.split(), "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert re.search(rf"^Error: .*{path.name}: expected an image", done.output, re.MULTILINE), done.output
    assert "Traceback" not in done.output


def test_maps_without_classes_of_tokens_are_refused(digits: Digits, tmp_path: Path) -> None:
    with pytest.raises(StoreMismatch, match="topk"):
        train(digits.images, digits.maps, tmp_path, replace(SMALL, supervision="relabel"), workers=0, device="cpu")


def test_the_command_line_has_every_setting(digits: Digits, tmp_path: Path) -> None:
    options = (
        "--model small_cnn --img-size 32 --grid 4 --model-arg stem_width=8 --epochs 1 --batch-size 60 --accumulate 3 "
        "--lr-base 0.02 --beta 1 1 --per sample --mask-kind random --precision bfloat16 --channels-last --clip-grad 1 "
        "--crop-scale 0.5 1 --workers 0 --device cpu"
    )
    arguments = [str(digits.images), str(digits.maps), *options.split(), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    stored = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert (stored["beta"], stored["crop_scale"], stored["model_arg"]) == ([1, 1], [0.5, 1], ["stem_width=8"])
    refused = CliRunner().invoke(main, [*arguments, "--kept", "0.3"], catch_exceptions=False)
    assert refused.exit_code == 1
    assert "kept: expected 0.5" in refused.output
