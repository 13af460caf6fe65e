"""A class order that is wrong: said while the job runs, at its end, and by every command that looks at the store."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cli import main
from extract.audit.top1 import CHECK_ROWS, Top1Watch, suspicions
from extract.errors import TeacherError
from extract.job.progress import Progress
from store import Header, create_store
from store.checking.predictions import Confusion
from store.spec import Json

COLOURS = {"black": 0, "blue": 0x0000FF, "cyan": 0x00FFFF, "green": 0x00FF00, "red": 0xFF0000, "white": 0xFFFFFF}
TEACHER = ["--teacher", "test_resnet", "--input-size", "64", "--workers", "0", "--device", "cpu"]
TRAINED: dict[str, Json] = {"classes": 20, "source": "checkpoint"}


def tokenmix(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[object]]:
    """Folders of one colour each but for noise, under the name of the next colour; and a teacher that knows colours."""
    import timm
    import torch

    root, rng = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    names = list(COLOURS)
    for name, moved in zip(names, names[1:] + names[:1], strict=True):
        (root / "right" / name).mkdir(parents=True)
        colour = np.array(COLOURS[name]).reshape(1).view(np.uint8)[2::-1]
        for number in range(12):
            pixels = np.clip(colour + rng.normal(0, 9, (64, 64, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / "right" / name / f"{number}.png")
        (root / "moved").mkdir(exist_ok=True)
        (root / "moved" / moved).symlink_to(root / "right" / name)
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet").state_dict(), root / "teacher.pth")
    teacher = [*TEACHER, "--checkpoint", root / "teacher.pth"]
    fitted = tokenmix("fit-head", root / "right", "-o", root / "head.safetensors", *teacher)
    assert fitted.exit_code == 0, fitted.output
    return root, [*teacher, "--head", root / "head.safetensors", "--shard-size", 24]


def test_right_classes_pass_without_a_word(job: tuple[Path, list[object]], tmp_path: Path) -> None:
    root, given = job
    done = tokenmix("extract", root / "right", tmp_path / "maps", *given, "--min-top1", 0.9)
    assert done.exit_code == 0
    assert "top-1 100.0 %" in done.output
    for output in (done.output, *(tokenmix(command, tmp_path / "maps").output for command in ("info", "status"))):
        assert "WARNING" not in output
        assert "GUESS" not in output
    assert json.loads(tokenmix("info", "--json", tmp_path / "maps").stdout)["warnings"] == []


def test_a_wrong_order_is_loud_everywhere(job: tuple[Path, list[object]], tmp_path: Path) -> None:
    root, given = job
    store = tmp_path / "maps"
    done = tokenmix("extract", root / "moved", store, *given)
    assert done.exit_code == 0
    for part in ("WARNING: top-1 is 0.0 % of 72 images", "permuted", "class 'blue' is mostly predicted as output 0 "
                 "('black')", "1. the class order", "--class-map", "tokenmix show"):  # fmt: skip
        assert part in done.stderr
    state = json.loads(tokenmix("info", "--json", store).stdout)
    assert (state["top1"], state["rows_judged"], state["rows_unreadable"]) == (0, 72, 0)
    assert state["top1_by_class"] == [0] * 6
    assert "permuted" in "".join(state["warnings"])
    for command in ("info", "verify"):
        looked = tokenmix(command, store)
        assert looked.exit_code == 0
        assert "top-1     0.0 % of 72 images" in looked.stdout
        assert "WARNING" in looked.stderr
    assert "0.0 % of 72 images: HARDLY BETTER THAN A GUESS" in tokenmix("status", store).output
    assert json.loads(tokenmix("status", "--json", store).output)["top1_is_chance"]


def test_below_min_top1_is_a_failure_that_a_lower_figure_takes_back(
    job: tuple[Path, list[object]], tmp_path: Path
) -> None:
    root, given = job
    call = ("extract", root / "moved", tmp_path / "maps", *given)
    for _ in range(2):  # also where nothing is left to do
        failed = tokenmix(*call, "--min-top1", 0.5)
        assert failed.exit_code == 1
        assert "expected a top-1 of 50.0 % or more" in failed.output
    assert tokenmix(*call, "--min-top1", 0).exit_code == 0
    assert tokenmix("verify", tmp_path / "maps").exit_code == 0


def test_min_top1_reaches_the_slurm_script_and_needs_classes(job: tuple[Path, list[object]], tmp_path: Path) -> None:
    root, given = job
    call = (root / "right", tmp_path / "maps", *given, "--min-top1", 0.5)
    assert " --min-top1 0.5 " in tokenmix("submit", *call, "--tasks", 2, "--dry-run").stdout
    classless = ["--teacher", "test_resnet", "--random-weights", 0, "--kind", "activation", "--workers", 0]
    refused = tokenmix("extract", root / "right", tmp_path / "maps", *classless, "--min-top1", 0.5)
    assert refused.exit_code == 1
    assert "--min-top1: expected a teacher whose predictions can be judged" in refused.output
    assert not (tmp_path / "maps").exists()


@pytest.fixture
def watched(tmp_path: Path) -> tuple[Path, Header]:
    """A store of 20 classes that no shard is in yet."""
    names = [f"class {number}" for number in range(20)]
    dataset: dict[str, Json] = {"root_name": "i", "class_names": names, "teacher_class": [*range(20)], "digest": ""}
    header = Header("label", TRAINED, {}, (1, 1), "float16", 20_000, 4096, dataset, {})
    create_store(tmp_path / "maps", header)
    return tmp_path / "maps", header


def feed(watch: Top1Watch, labels: np.ndarray, right: np.ndarray) -> None:
    """One batch of 64 after the other; a wrong row is predicted as the next class."""
    progress = Progress(len(labels), confusion=Confusion(np.arange(20)))
    for at in range(0, len(labels), 64):
        label = labels[at : at + 64]
        progress.confusion.add(label, np.where(right[at : at + 64], label, (label + 1) % 20))
        watch(progress)


def test_chance_is_said_while_the_job_runs_and_once(watched: tuple[Path, Header]) -> None:
    store, header = watched
    labels, said = np.random.default_rng(0).integers(0, 20, 4096), list[str]()
    feed(Top1Watch(store, None, said.append), labels[:64], np.zeros(64, bool))
    assert "WARNING: top-1 is 0.0 % of 64 images" in said[0]
    lines = len(said)
    said.clear()
    feed(Top1Watch(store, None, said.append), labels, np.zeros(4096, bool))
    assert len(said) == lines
    assert suspicions(Confusion(np.arange(20)), header, store, complete=False) == []


def test_a_head_that_was_fitted_on_random_weights_is_expected_to_know_its_classes(watched: tuple[Path, Header]) -> None:
    names: list[Json] = [str(k) for k in range(20)]
    teacher: dict[str, Json] = {**TRAINED, "source": "random", "head": {"class_names": names}}
    header, confusion = replace(watched[1], teacher=teacher), Confusion(np.arange(20))
    confusion.add(np.arange(400) % 20, (np.arange(400) + 1) % 20)
    lines = suspicions(confusion, header, watched[0], complete=True)
    assert "hardly better than a guess" in lines[0]
    assert any("The class order looks permuted" in line for line in lines)


def test_random_weights_are_expected_to_know_nothing(watched: tuple[Path, Header], tmp_path: Path) -> None:
    header = replace(watched[1], teacher={**TRAINED, "source": "random"})
    create_store(tmp_path / "random", header)
    said = list[str]()
    feed(Top1Watch(tmp_path / "random", None, said.append), np.arange(4096) % 20, np.zeros(4096, bool))
    assert said == []


def test_a_sudden_drop_is_said_but_no_difficult_class(watched: tuple[Path, Header]) -> None:
    labels, rng = np.repeat(np.arange(20), 400), np.random.default_rng(0)  # as class folders are read
    right = rng.random(8000) < 0.8
    said = list[str]()
    difficult = right & ~np.isin(labels, (3, 7, 8, 15))
    feed(Top1Watch(watched[0], None, said.append), labels, difficult)
    assert said == []
    right[4200:] = rng.random(3800) < 0.02
    feed(Top1Watch(watched[0], None, said.append), labels, right)
    assert len(said) == 1
    assert "top-1 has dropped" in said[0]


def test_hopeless_jobs_stop_early(watched: tuple[Path, Header]) -> None:
    labels, said = np.arange(4 * CHECK_ROWS) % 20, list[str]()
    with pytest.raises(TeacherError, match="stopped early"):
        feed(Top1Watch(watched[0], 0.6, said.append), labels, labels % 10 == 0)
    # the first classes may be the difficult ones: only the end can tell
    feed(Top1Watch(watched[0], 0.6, said.append), labels, labels % 2 == 0)
