"""The paper's recipe: what it trains on, how it goes on, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner

import recipes.train.epoch
from recipes.context_digits.generate import generate
from recipes.train.checkpoint import BEST, LAST
from recipes.train.data import find_classes, open_validation
from recipes.train.processes import Processes
from recipes.train.settings import Settings, TrainingError
from recipes.train.students import create_student
from recipes.train.train import main, train
from store import StoreMismatch
from tests.recipes.test_fidelity import ROWS, write_perfect_maps
from tokenmix_loader import MapStore

SMALL = Settings(model="small_vit", img_size=32, epochs=2, batch_size=30, lr=1e-3)
HERE = Processes(torch.device("cpu"))


class Digits(NamedTuple):
    """Sixty images of ten classes, with maps of both kinds."""

    images: Path
    maps: Path
    topk: Path


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    root = tmp_path_factory.mktemp("train")
    found = Digits(root / "data" / "images", root / "maps", root / "topk")
    generate(root / "data", ROWS, seed=0, split="test")
    write_perfect_maps(found.maps, found.images)
    write_perfect_maps(found.topk, found.images, topk=True)
    return found


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As many threads as there are cores only wait for each other in networks as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(digits: Digits, out: Path, settings: Settings, **options: Any) -> list[dict[str, float | None]]:
    maps = digits.topk if settings.by_token or settings.supervision == "relabel" else digits.maps
    chosen: dict[str, Any] = {"workers": 0, "device": "cpu", "say": lambda _: None} | options
    return train(digits.images, maps, out, settings, **chosen)


def weights(out: Path) -> dict[str, torch.Tensor]:
    state = torch.load(out / LAST, weights_only=True)
    averaged = {f"averaged {name}": value for name, value in state.get("state_dict_ema", {}).items()}
    return {**state["state_dict"], **averaged}


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def test_log_weights_and_settings_are_left(digits: Digits, tmp_path: Path) -> None:
    said: list[str] = []
    settings = replace(SMALL, lr=None, ema_decay=0.5)
    rows = run(digits, tmp_path, settings, val=digits.images, say=said.append)
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == rows
    assert [row["epoch"] for row in rows] == [0, 1]
    for row in rows:
        assert row.keys() == {"epoch", "lr", "loss", "top1", "ema_top1", "images_per_second", "seconds"}
        assert all(value is not None and value >= 0 for value in row.values())
        assert 0.2 < (row["loss"] or 0) < 0.8  # of ten classes of which no one is learned yet
    assert json.loads((tmp_path / "settings.json").read_text())["model"] == "small_vit"
    assert "masks of 4 x 4 tokens, its own, of 8 px" in said[0]
    assert "learning rate 2.92969e-05 (0.001 at 1024, scaled) after 1 warm-up epoch" in said[1]
    assert "left" in said[-1]


def test_best_weights_are_those_of_the_best_epoch(digits: Digits, tmp_path: Path) -> None:
    settings = replace(SMALL, epochs=3, ema_decay=0.9)
    rows = run(digits, tmp_path, settings, val=digits.images)
    model = timm.create_model("small_vit", num_classes=10, img_size=32, checkpoint_path=tmp_path / BEST).eval()
    student = create_student(settings, 10)
    classes = find_classes(MapStore(digits.maps), None, settings)
    with torch.no_grad():
        hits = [
            (model(images).argmax(dim=1) == labels).float()
            for images, labels in open_validation(digits.images, classes, student, settings, HERE, 0)
        ]
    found = float(torch.cat(hits).mean())
    assert found == pytest.approx(max(max(row["top1"] or 0, row["ema_top1"] or 0) for row in rows))


@pytest.mark.parametrize(
    ("found", "kept"),
    [([(0.2, 0.1), (0.1, 0.3), (0.3, 0.2)], (1, "ema")), ([(0.2, 0.2), (0.5, 0.3), (0.4, 0.1)], (1, "model"))],
)
def test_best_weights_are_the_model_s_or_their_average(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: list[Any], kept: tuple[int, str]
) -> None:
    seen: dict[tuple[int, str], dict[str, torch.Tensor]] = {}

    def instead(run: Any) -> Any:
        epoch = len(seen) // 2
        for name, model in (("model", run.student.model), ("ema", run.ema.module)):
            seen[epoch, name] = {key: value.clone() for key, value in model.state_dict().items()}
        return found[epoch]

    monkeypatch.setattr(recipes.train.epoch, "evaluate", instead)
    run(digits, tmp_path, replace(SMALL, model="small_cnn", epochs=3, ema_decay=0.9), val=digits.images)
    best = torch.load(tmp_path / BEST, weights_only=True)
    assert (best["epoch"], best["top1"]) == (kept[0], max(found[kept[0]]))
    assert largest_difference(best["state_dict"], seen[kept]) == 0


class Stop(Exception):  # noqa: N818
    """In the place of a kill."""


@contextmanager
def stopping_in_second_epoch() -> Iterator[None]:
    """With one update of it done."""
    update = recipes.train.epoch._update

    def once_more(run: Any, number: int) -> None:
        update(run, number)
        if number == run.data.batches.updates + 1:
            raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes.train.epoch, "_update", once_more)
        yield


@pytest.mark.parametrize(
    "settings",
    [
        replace(SMALL, epochs=3, ema_decay=0.9, aa="none"),
        replace(SMALL, epochs=3, model="test_resnet", accumulate=2, clip_grad=1.0, mixup_off_epoch=1, loss="ce"),
    ],
    ids=["vit", "cnn"],
)
def test_a_stopped_run_ends_as_an_undisturbed_one(digits: Digits, tmp_path: Path, settings: Settings) -> None:
    undisturbed = run(digits, tmp_path / "whole", settings, val=digits.images)
    with stopping_in_second_epoch(), pytest.raises(Stop):
        run(digits, tmp_path / "stopped", settings, val=digits.images)
    assert len((tmp_path / "stopped" / "log.jsonl").read_text().splitlines()) == 1
    torch.manual_seed(123)  # what happened in between must not matter, nor how many processes load
    resumed = run(digits, tmp_path / "stopped", settings, val=digits.images, workers=1)
    assert largest_difference(weights(tmp_path / "whole"), weights(tmp_path / "stopped")) == 0
    for one, other in zip(undisturbed, resumed, strict=True):
        assert all(one[name] == other[name] for name in ("epoch", "lr", "loss", "top1", "ema_top1"))
    assert run(digits, tmp_path / "stopped", settings, val=digits.images) == resumed  # finished: nothing to do


def test_resuming_with_other_settings_names_the_first(digits: Digits, tmp_path: Path) -> None:
    run(digits, tmp_path, replace(SMALL, epochs=1))
    with pytest.raises(TrainingError, match=r"last\.pt: kept: expected 0\.5.*found 0\.25"):
        run(digits, tmp_path, replace(SMALL, epochs=1, kept=0.25))
    with pytest.raises(TrainingError, match=r"last\.pt: epochs: expected 1, .*found 2"):
        run(digits, tmp_path, SMALL)
    with pytest.raises(TrainingError, match=r"last\.pt: maps: expected"):
        train(digits.images, digits.topk, tmp_path, replace(SMALL, epochs=1), workers=0, device="cpu")
    (tmp_path / LAST).write_bytes(b"no checkpoint")
    with pytest.raises(TrainingError, match=r"last\.pt: expected what an earlier call"):
        run(digits, tmp_path, replace(SMALL, epochs=1))


def test_learning_rate_follows_batch_warm_up_and_cosine(digits: Digits, tmp_path: Path) -> None:
    assert Settings().peak_lr == 1e-3
    assert Settings(batch_size=256).peak_lr == 2.5e-4
    assert Settings(batch_size=256, lr=3e-4).peak_lr == 3e-4
    settings = replace(SMALL, epochs=4, batch_size=20, model="small_cnn", lr=1e-2, min_lr=1e-3, warmup_epochs=1)
    rates = [row["lr"] for row in run(digits, tmp_path, settings)]  # of each epoch's third and last update
    cosine = [1e-3 + 9e-3 * (1 + np.cos(np.pi * update / 12)) / 2 for update in (5, 8, 11)]
    assert rates == pytest.approx([1e-6 + (1e-2 - 1e-6) * 2 / 3, *cosine])


def test_parts_of_an_update_add_up_to_its_mean(digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[torch.Tensor] = []

    def instead(run: Any, _: int) -> None:
        found.append(torch.cat([each.grad.flatten() for each in run.student.model.parameters()]))
        raise Stop

    monkeypatch.setattr(recipes.train.epoch, "_update", instead)
    settings = replace(SMALL, model="test_vit", mix_prob=0.0, drop_path=0.0, reprob=0.0)  # no batch normalisation
    for parts in (1, 3):
        with pytest.raises(Stop):
            run(digits, tmp_path, replace(settings, accumulate=parts))
    assert found[0].abs().max() > 1e-3
    assert torch.allclose(found[0], found[1], atol=1e-6)


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
