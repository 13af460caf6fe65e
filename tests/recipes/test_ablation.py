"""The ablation on a few digits: what is made anew and what is not, and what arms share."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from recipes.ablation import run as running
from recipes.ablation.arms import ARMS, MAIN
from recipes.ablation.data import IDEAL, STORES, Data, cut_outs, write_ideal_maps
from recipes.ablation.log import (
    AblationError,
    code_digest,
    find_experiment,
    open_experiment,
    read_record,
    write_json,
)
from recipes.ablation.run import Runner, run, tasks_of
from recipes.ablation.training import STUDENTS, Pictures, Schedule, batches, train, training_images
from recipes.context_digits.generate import generate
from tests.recipes.test_fidelity import ROWS, write_perfect_maps
from tokenmix_loader import MapStore, TokenMix

SHORT = Schedule(epochs=1, batch_size=20)
MIXED = "block-area"
VIT = STUDENTS["small_vit"]
CHOSEN = {"classes": 10, "images": ROWS, "test_images": 10}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Digits, with true masks as maps of the three kinds that arms read."""
    root = tmp_path_factory.mktemp("ablation")
    found = Data(root / "train", root / "test")
    generate(found.train, ROWS, seed=0, split="train")
    generate(found.test, 10, seed=0, split="test")
    write_ideal_maps(found.store(IDEAL), found.train)
    write_perfect_maps(found.store("label-lite0"), found.train / "images")
    write_perfect_maps(found.store("topk-lite0"), found.train / "images", topk=True)
    return found


def runner_in(folder: Path, data: Data, schedule: Schedule = SHORT) -> Runner:
    return Runner(open_experiment(folder, data, schedule, CHOSEN), data, schedule, "python -m recipes.ablation.run x")


@pytest.fixture(scope="module")
def runner(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """One seed of the two arms whose stores are there, with one student."""
    made = runner_in(tmp_path_factory.mktemp("runs"), data)
    assert run(made, tasks_of(["small_cnn"], ["none", MIXED], 1), 1, print) == 2
    return made


def test_record_says_all_that_decides(runner: Runner) -> None:
    (record,) = [found for found in runner.experiment.records() if found["arm"] == MIXED]
    assert record["shared"] == runner.experiment.shared
    assert record["settings"]["mixing"]["supervision"] == "area"
    assert record["history"][-1]["top1"] == record["top1"] in np.arange(11) / 10
    assert record["machine"]["threads"] == 1
    assert record["seconds"] > 0
    assert not [*runner.experiment.folder.rglob("*.tmp")]


def test_finished_runs_are_skipped(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the one that a kill cost is made, and to the same result."""
    first, second = tasks_of(["small_cnn"], ["none", MIXED], 1)
    path = runner.experiment.path(second)
    before, trained = read_record(path), []

    def counted(*args: Any) -> Any:
        trained.append(args[2])
        return train(*args)

    path.unlink()
    monkeypatch.setattr(running, "train", counted)
    lines: list[str] = []
    assert run(runner, [first, second], 1, lines.append) == 1
    assert trained == [second.arm]
    assert read_record(path)["history"] == before["history"]
    assert "1 of 2 runs are there" in lines[0]
    assert run(runner, [first, second], 1, print) == 0


def test_other_schedule_data_and_code_are_kept_apart(
    runner: Runner, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = runner.experiment.folder.parents[1]
    assert runner_in(folder, data).experiment == runner.experiment
    others = [runner_in(folder, data, replace(SHORT, epochs=2)).experiment]
    monkeypatch.setattr("recipes.ablation.log.code_digest", lambda: "edited")
    others.append(runner_in(folder, data).experiment)
    monkeypatch.undo()
    others.append(runner_in(folder, Data(data.train, data.train)).experiment)
    assert len({runner.experiment.folder, *(other.folder for other in others)}) == 4
    assert not any(other.records() for other in others)

    lines: list[str] = []
    run(runner, [], 1, lines.append)
    assert sum("kept apart" in line for line in lines) == 3
    with pytest.raises(AblationError, match=rf"found no name and .*{runner.experiment.folder.name} \(2 runs\)"):
        find_experiment(folder, None)
    for other in (others[0], others[2]):
        shutil.rmtree(other.folder)
    assert find_experiment(folder, None) == runner.experiment  # of two, the one of the code as it is now
    assert find_experiment(folder, runner.experiment.folder.name) == runner.experiment


def test_changed_arm_is_refused(runner: Runner) -> None:
    (task,) = tasks_of(["small_cnn"], [MIXED], 1)
    other = replace(task, arm=replace(task.arm, mixing={**task.arm.mixing, "aspect": 0.5}))
    with pytest.raises(AblationError, match=r"block-area-0\.json: mixing: expected .*0\.5.* found "):
        run(runner, [other], 1, print)
    assert runner.experiment.finished(replace(task, arm=replace(task.arm, words="said otherwise")), runner.data)


def test_code_digest_sees_code_and_not_its_looks(tmp_path: Path) -> None:
    def digest(source: str) -> str:
        (tmp_path / "package").mkdir(exist_ok=True)
        (tmp_path / "package" / "a.py").write_text(source)
        return code_digest(tmp_path, ["package"])

    assert digest("a = 1") == digest("a  =  1  # one\n") != digest("a = 2")


@pytest.mark.parametrize("content", ["{", "[]"])
def test_damaged_record_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(AblationError, match=r"a\.json: expected a run's record, found .*delete it"):
        read_record(path)


def test_write_that_fails_leaves_the_record_before(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"top1": 0.5})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"top1": float("nan")})
    assert read_record(path) == {"top1": 0.5}


def test_arms_of_the_same_settings_give_the_same_weights(data: Data) -> None:
    """Whatever was drawn before, and though two stores are read."""
    arm = ARMS["none"]
    first = train(data, VIT, arm, 3, SHORT).model.state_dict()
    torch.rand(5)
    second = train(data, VIT, replace(arm, store="label-lite0"), 3, SHORT).model.state_dict()
    other = train(data, VIT, arm, 4, SHORT).model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_crops_and_order_do_not_depend_on_the_arm(data: Data) -> None:
    def crops(store: str, seed: int, noise: int) -> list[torch.Tensor]:
        pictures = Pictures(data.train / "images")
        images, seen = training_images(pictures, MapStore(data.store(store)), seed, 64), []
        for pixels, target in batches(images, len(pictures), 20, seed, epoch=1):
            torch.rand(noise)  # what an arm may draw between batches
            seen += [pixels, target.label]
        return seen

    one, two, other = crops(IDEAL, 0, 1), crops("label-lite0", 0, 7), crops(IDEAL, 1, 1)
    assert len(one) == 6
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[0], other[0])


@pytest.fixture(scope="module")
def batch_of(data: Data) -> Any:
    """The first batch, joined to a store."""

    @cache
    def first(name: str) -> tuple[MapStore, Any]:
        pictures, store = Pictures(data.train / "images"), MapStore(data.store(name))
        return store, next(iter(batches(training_images(pictures, store, 0, 64), len(pictures), 20, 0, 0)))

    return first


@pytest.mark.parametrize("name", ARMS)
def test_arm_is_accepted_and_mixes(batch_of: Any, name: str) -> None:
    """With a store of the kind that it has (of label for cam, whose maps are of one class too)."""
    arm = ARMS[name]
    kind = "activation" if arm.store == IDEAL else STORES[arm.store].kind
    stand_in = {"activation": IDEAL, "label": "label-lite0", "cam": "label-lite0", "topk": "topk-lite0"}[kind]
    store, (pixels, targets) = batch_of(stand_in)
    mix = TokenMix(
        store, 10, VIT.grid, rng=np.random.default_rng(1), **arm.mixing_on(VIT.grid) | {"prob": float(name != "none")}
    )
    mixed, dense = mix(pixels, targets)
    assert torch.equal(mixed, pixels) == (name == "none")
    weight = (dense.label if arm.by_token else dense).sum(1)
    if "supervision" in arm.mixing or name in ("none", "mixup"):
        assert weight.allclose(torch.ones(20))
    else:  # of the evidence, two images may show all or nothing
        assert 0 <= weight.min() < weight.max() <= 2 + 1e-5


def test_token_labels_need_tokens(data: Data) -> None:
    assert [task.student for task in tasks_of([*STUDENTS], ["tokenlabeling"], 1)] == [VIT, STUDENTS["wide_vit"]]
    assert len(train(data, VIT, ARMS["tokenlabeling"], 0, SHORT).history) == 1


def test_seeds_come_before_arms() -> None:
    tasks = tasks_of(["small_cnn", "small_vit"], MAIN, 2)
    assert [task.seed for task in tasks] == [0] * 2 * len(MAIN) + [1] * 2 * len(MAIN)
    assert len({(task.student, task.name, task.seed) for task in tasks}) == 4 * len(MAIN)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stamps", "nowhere"], "nowhere: expected the stamps of Debian's package tuxpaint-stamps-default"),
        (["--arms", "main,blocks"], "found 'blocks'"),
        (["--images", "49"], "expected a batch at least, 50, found 49"),
    ],
)
def test_mistakes_are_messages(tmp_path: Path, options: list[str], message: str) -> None:
    done = CliRunner().invoke(running.main, [str(tmp_path / "new"), *options])
    assert done.exit_code != 0
    assert message in done.output
    assert not (tmp_path / "new").exists()


def test_names_of_arms() -> None:
    chosen = running._names([*ARMS], main=MAIN)
    parameter: Any = None
    assert chosen(parameter, parameter, f"mixup,main,{MAIN[0]}") == ["mixup", *MAIN]


def test_smallest_blocks_are_the_papers_share() -> None:
    sizes = {name: ARMS[MIXED].mixing_on(student.grid)["min_tokens"] for name, student in STUDENTS.items()}
    assert sizes == {"small_cnn": 5, "small_vit": 5, "wide_cnn": 10, "wide_vit": 10}
    assert ARMS[MIXED].mixing_on((14, 14))["min_tokens"] == 14
    assert "min_tokens" not in ARMS["random-area"].mixing_on((8, 8))


def test_prepared_images_need_no_stamps(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUXPAINT_STAMPS", str(tmp_path / "nowhere"))
    (tmp_path / f"train-10-{ROWS}").symlink_to(data.train)
    (tmp_path / "test-10-10").symlink_to(data.test)
    assert cut_outs(tmp_path, 10, ROWS, 10).digest() == data.digest()
    with pytest.raises(FileNotFoundError, match="nowhere: expected the stamps"):
        cut_outs(tmp_path, 10, ROWS, 11)
