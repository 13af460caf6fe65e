"""What is handed to sbatch: one golden script, and the properties of the others."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.errors import ExtractError
from extract.job.slurm import SlurmOptions, arguments_of, environment_for, job_name, render_arrays, submit_arrays

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


def test_the_command_line_says_what_the_script_says() -> None:
    options = replace(EVERYTHING, log_dir=Path("/data/my logs"), sbatch_args=("--comment='of one day'", "-x n7"))
    given = arguments_of(render_arrays(options, STORE, ["#SBATCH --mem=1"])[0])
    assert given[:2] == ["--job-name=tokenmix-maps-8fdd34b1", "--array=0-299%50"]
    assert {"--time=4:00:00", "--mem=32G", "--requeue", "--output=/data/my logs/%x-%A_%a.log"} <= set(given)
    assert given[-3:] == ["--comment=of one day", "-x", "n7"]
    with pytest.raises(ExtractError, match="--sbatch-arg: expected an option with its quotes closed"):
        arguments_of(render_arrays(replace(options, sbatch_args=("--comment='of",)), STORE, [])[0])


SITE = {"SBATCH_PARTITION": "gpu", "SBATCH_ACCOUNT": "lab", "SLURM_CONF": "/etc/slurm.conf", "HOME": "/home/me"}


def test_the_site_s_defaults_stay_and_the_rest_of_slurm_goes() -> None:
    around = {"SLURM_JOB_ID": "7", "SLURM_MEM_PER_CPU": "50", "SLURM_RESTART_COUNT": "5", "CUDA_VISIBLE_DEVICES": "3"}
    assert environment_for([], {**SITE, **around, "SBATCH_WAIT": "1", "SBATCH_ERROR": "/x"}) == SITE
    assert environment_for([], {**SITE, "CUDA_VISIBLE_DEVICES": "3"}) == {**SITE, "CUDA_VISIBLE_DEVICES": "3"}
    spellings = {"SBATCH_MEM_PER_CPU": "1G", "SBATCH_GRES": "gpu:2"}
    assert environment_for(["--time=1"], {**SITE, **spellings}) == {**SITE, **spellings}
    assert environment_for(["--mem=1G", "--gpus=1"], {**SITE, **spellings}) == SITE


def test_sbatch_is_given_options_on_its_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that a variable would override in the script."""
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{tmp_path}/given\ncat >{tmp_path}/script\necho "7;cluster"\n')
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    scripts = render_arrays(EVERYTHING, STORE, ARGUMENTS)
    assert submit_arrays(scripts, tmp_path / "logs") == ["7"]
    assert (tmp_path / "given").read_text().splitlines() == ["--parsable", *arguments_of(scripts[0])]
    assert (tmp_path / "script").read_text() == scripts[0]


def test_by_hand_as_the_script_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sbatch").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (script,) = render_arrays(replace(EVERYTHING, log_dir=Path("/data/my logs")), STORE, ARGUMENTS)
    (tmp_path / "job.sh").write_text(script)
    command = re.search("^# line. By hand: (.*)$", script, re.MULTILINE)
    assert command is not None
    by_hand = command[1].replace("FILE", "job.sh")
    said = subprocess.run(["bash", "-c", by_hand], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == [*arguments_of(script), "job.sh"]


def test_job_names_tell_stores_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert job_name(Path("maps")) == job_name(tmp_path / "maps") != job_name(STORE)


def test_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ExtractError, match="sbatch: expected.*--dry-run"):
        submit_arrays(["#!/bin/bash"], tmp_path / "logs")
    assert not (tmp_path / "logs").exists()
