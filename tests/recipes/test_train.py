"""The paper's recipe: what it trains on, how it goes on, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import timm
import torch

import recipes.train.epoch
from recipes.context_digits.generate import generate
from recipes.train.checkpoint import BEST, LAST
from recipes.train.data import find_classes, open_validation
from recipes.train.processes import Processes
from recipes.train.settings import Settings, TrainingError
from recipes.train.students import create_student
from recipes.train.train import train
from tests.recipes.test_fidelity import ROWS, write_perfect_maps
from tokenmix_loader import MapStore

SMALL = Settings(model="small_vit", img_size=32, epochs=2, batch_size=30, lr=1e-3)
BRIEF = replace(SMALL, epochs=1, batch_size=10)
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


def test_averaged_weights_have_the_given_decay(digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first update on, which they begin with."""
    update, seen = recipes.train.epoch._update, []

    def look(run: Any, number: int) -> None:
        update(run, number)
        seen.append({name: value.clone() for name, value in run.student.model.state_dict().items()})

    monkeypatch.setattr(recipes.train.epoch, "_update", look)
    run(digits, tmp_path, replace(BRIEF, ema_decay=0.9))
    expected = seen[0]
    for after in seen[1:]:
        expected = {name: value.lerp(after[name], 0.1) if value.is_floating_point() else after[name]
                    for name, value in expected.items()}  # fmt: skip
    averaged = torch.load(tmp_path / LAST, weights_only=True)["state_dict_ema"]
    assert largest_difference(averaged, expected) < 1e-6
    assert largest_difference(averaged, seen[-1]) > 1e-4


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


def test_no_validation_images_of_its_own_is_no_reason_to_leave_the_others(digits: Digits, tmp_path: Path) -> None:
    """With fewer images than processes some have none, and must still add their zeros to the sum of all."""
    asked: list[torch.Tensor] = []

    class Others(Processes):
        def summed(self, numbers: torch.Tensor) -> torch.Tensor:
            asked.append(numbers)
            return numbers + 1

    student = create_student(SMALL, 10)
    run = SimpleNamespace(student=student, ema=None, processes=Others(HERE.device), validation=[], settings=SMALL)
    assert recipes.train.epoch.evaluate(run) == (1.0, None)  # type: ignore[arg-type]
    assert len(asked) == 1
