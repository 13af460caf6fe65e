"""What is handed to sbatch: one golden script, and the properties of the others."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.errors import ExtractError
from extract.job.slurm import SlurmOptions, job_name, render_arrays, submit_arrays

STORE = Path("/data/maps")
ARGUMENTS = ["/data/imagenet", "--teacher", "resnet101", "--pretrained", "/data/my maps"]
GOLDEN = Path(__file__).with_name("array.sbatch")
EVERYTHING = SlurmOptions(
    tasks=300,
    log_dir=Path("/data/logs"),
    partition="gpu",
    account="vision",
    qos="low",
    time="4:00:00",
    gpus="1",
    cpus_per_task=9,
    mem="32G",
    constraint="h100",
    parallel=50,
    warn_s=300,
    setup=("module load apptainer", "export HF_HOME=/data/hf"),
    command="apptainer exec --nv /data/tokenmix.sif tokenmix",
    sbatch_args=("--exclude=n7", "--comment=maps"),
)


def test_golden_script() -> None:
    """After a change on purpose: write the new text into the file and read its diff."""
    assert render_arrays(EVERYTHING, STORE, ARGUMENTS) == [GOLDEN.read_text()]


def test_bash_understands_every_script() -> None:
    for script in render_arrays(SlurmOptions(5, Path("/logs")), STORE, ["it's", "$HOME"], limit=2):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@given(tasks=st.integers(1, 3000), limit=st.none() | st.integers(1, 1001))
def test_split_arrays_are_all_the_workers(tasks: int, limit: int | None) -> None:
    workers: list[str] = []
    for script in render_arrays(SlurmOptions(tasks, Path("/logs")), STORE, [], limit):
        first, last = map(int, re.search(r"--array=(\d+)-(\d+)\n", script).groups())  # type: ignore[union-attr]
        assert first == 0
        assert last < (limit or tasks)
        offset, total = re.search(r"worker=\"\$\(\(SLURM_ARRAY_TASK_ID \+ (\d+)\)\)/(\d+)\"", script).groups()  # type: ignore[union-attr]
        workers += [f"{i + int(offset)}/{total}" for i in range(last + 1)]
    assert workers == [f"{i}/{tasks}" for i in range(tasks)]


def test_log_folders_are_spelled_for_sbatch() -> None:
    scripts = render_arrays(replace(EVERYTHING, log_dir=Path("/data/my logs")), Path("/data/maps"), [], None)
    assert '#SBATCH --output="/data/my logs/%x-%A_%a.log"\n' in scripts[0]
    percent = render_arrays(replace(EVERYTHING, log_dir=Path("/data/100%j")), Path("/data/maps"), [], None)
    assert "#SBATCH --output=/data/100%%j/%x-%A_%a.log\n" in percent[0]
    with pytest.raises(ExtractError, match="without quotes and line breaks"):
        render_arrays(replace(EVERYTHING, log_dir=Path("/data/my\nlogs")), Path("/data/maps"), [], None)


def test_job_names_tell_stores_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert job_name(Path("maps")) == job_name(tmp_path / "maps") != job_name(STORE)


def test_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ExtractError, match="sbatch: expected.*--dry-run"):
        submit_arrays(["#!/bin/bash"], tmp_path / "logs")
    assert not (tmp_path / "logs").exists()
