"""Arrays on a real Slurm: whatever happens to the tasks, the store ends complete and as one process writes it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from extract.job.slurm import SlurmOptions, job_name, log_folder, render_arrays, submit_arrays
from extract.job.status import read_status
from recipes.context_digits.generate import generate
from store import read_header, verify
from store.folder.claims import list_shards
from tests.slurm.conftest import output_of, wait_until

pytestmark = pytest.mark.slurm
TOKENMIX = [sys.executable, "-m", "cli"]
# Half a second of one thread per image, so that a task can be met in the middle of its work.
JOB = ["--teacher", "resnet26", "--random-weights", "0", "--num-classes", "10", "--input-size", "448",
       "--batch-size", "1", "--shard-size", "2", "--workers", "0", "--device", "cpu"]  # fmt: skip
ONE_THREAD = ["--setup", "export OMP_NUM_THREADS=1"]
Submit = Callable[..., str]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits")
    generate(root, 32, seed=1, split="test")
    return root / "images"


@pytest.fixture(scope="module")
def expected(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a single undisturbed process writes."""
    store = tmp_path_factory.mktemp("alone") / "maps"
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*TOKENMIX, "extract", images, store, *JOB], check=True, capture_output=True, env=environ)
    return shard_bytes(store)


def shard_bytes(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(store.glob("shard-*.h5"))}


@pytest.fixture
def submit(slurm: Path, images: Path, tmp_path: Path) -> Submit:
    """`submit(tasks, *options)` -> what `tokenmix submit` said; the store is `tmp_path / "maps"`."""

    def submit(tasks: int, *options: str) -> str:
        given = [*JOB, *ONE_THREAD, "--tasks", str(tasks), *options]
        return output_of(*TOKENMIX, "submit", images, tmp_path / "maps", *given)

    return submit


def tasks_of(store: Path, *states: str) -> list[str]:
    """Ids of this store's tasks that are pending, running or ending; only those in `states`, where given."""
    lines = output_of("squeue", "-hr", f"--name={job_name(store)}", "-o", "%i %T").splitlines()
    return [line.split()[0] for line in lines if not states or line.split()[1] in states]


def wait_for_work(store: Path, shards: int) -> None:
    """Until some shards are finished and another is being computed."""

    def begun() -> bool:
        if not (store / "store.json").exists():
            return False
        listing = list_shards(store, read_header(store))
        return len(listing.finished) >= shards and len(listing.claims) > 0

    wait_until(begun, 300, f"{shards} finished shards and another one begun")


def check(store: Path, expected: dict[str, bytes]) -> None:
    """When no task is left: everything is there, nothing is left over, and the bytes are the expected ones."""
    wait_until(lambda: not tasks_of(store), 400, f"the tasks of {store}")
    logs = log_text(store)
    assert verify(store).problems == (), logs
    assert shard_bytes(store) == expected


def test_requeue_and_kill(submit: Submit, expected: dict[str, bytes], tmp_path: Path) -> None:
    """Four tasks on two nodes; one is requeued by hand, the process of another is killed."""
    submit(4)
    store = tmp_path / "maps"
    wait_for_work(store, 2)
    running = tasks_of(store, "RUNNING")
    assert len(running) == 4
    assert set(output_of("squeue", "-hr", "-o", "%N").splitlines()) == {"n1", "n2"}
    assert read_status(store).slurm == {"RUNNING": 4}
    os.kill(list_shards(store, read_header(store)).claims[-1].pid, signal.SIGKILL)
    output_of("scontrol", "requeue", running[0])
    check(store, expected)


def test_preemption(submit: Submit, expected: dict[str, bytes], tmp_path: Path) -> None:
    submit(4)
    store = tmp_path / "maps"
    wait_for_work(store, 2)
    output_of("sbatch", "--partition=high", "--exclusive", "--nodes=2", "--output=/dev/null", "--wrap=sleep 3")
    wait_until(lambda: tasks_of(store, "PENDING"), 60, "preemption")
    check(store, expected)
    assert "stopped by SIGUSR1" in log_text(store)


def test_time_limit(submit: Submit, expected: dict[str, bytes], tmp_path: Path) -> None:
    """Slurm looks at time limits twice a minute: this warning comes 60 to 90 s after the start, in the set-up lines.

    So it does not depend on the machine's speed; what a warning does to the work itself, preemption tells.
    """
    setup = 'echo "start ${SLURM_RESTART_COUNT:-0}"; [ -n "$SLURM_RESTART_COUNT" ] || sleep 100'
    submit(1, "--time", "2", "--warn", "30", "--setup", setup)
    store = tmp_path / "maps"
    wait_until(lambda: "start 1" in log_text(store), 180, "the time limit")
    for task in tasks_of(store):  # once is enough; on a busy machine two minutes are short
        output_of("scontrol", "update", f"JobId={task}", "TimeLimit=20")
    check(store, expected)


def test_cancelled_tasks_stay_away(submit: Submit, expected: dict[str, bytes], tmp_path: Path) -> None:
    """Five workers are two arrays here, where MaxArraySize is 4; the second submission finds its way."""
    assert submit(5).count("submitted array") == 2
    store = tmp_path / "maps"
    wait_for_work(store, 1)
    output_of("scancel", f"--name={job_name(store)}")
    wait_until(lambda: not tasks_of(store), 60, "scancel")
    finished = shard_bytes(store)
    assert finished.items() < expected.items()
    submit(3)
    check(store, expected)


OPTIONS = SlurmOptions(1, time="4:00:00", mem="300M", cpus_per_task=1, sbatch_args=("--begin=now+1hour",))
HOSTILE = {
    "SBATCH_TIMELIMIT": "1:0:0", "SBATCH_MEM_PER_NODE": "100M", "SBATCH_MEM_PER_CPU": "100M", "SBATCH_NO_REQUEUE": "1",
    "SBATCH_ARRAY_INX": "0-3", "SBATCH_ERROR": "/dev/null", "SBATCH_OUTPUT": "/dev/null", "SBATCH_SIGNAL": "KILL@1",
    "SBATCH_OPEN_MODE": "truncate", "SBATCH_WAIT": "1", "SBATCH_EXPORT": "NONE", "SBATCH_PARTITION": "high",
}  # fmt: skip


def submitted(store: Path, options: SlurmOptions) -> str:
    """What Slurm says of an array, before it is cancelled."""
    (job,) = submit_arrays(render_arrays(options, store, []), log_folder(options, store))
    said = output_of("scontrol", "show", "job", job)
    output_of("scancel", job)
    return said


def test_variables_of_the_site_override_nothing(slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But what was not given: the partition."""
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    said = submitted(tmp_path / "maps", OPTIONS)
    for expected in ("TimeLimit=04:00:00", "MinMemoryNode=300M", "Requeue=1", "ArrayTaskId=0", "Partition=high"):
        assert re.search(rf"\b{expected}\s", said), said
    assert set(re.findall(r"Std(?:Err|Out)=(\S+)/", said)) == {f"{tmp_path}/maps.logs"}


SUBMIT = """\
from pathlib import Path
from extract.job.slurm import SlurmOptions, log_folder, render_arrays, submit_arrays
store = Path({store!r})
options = SlurmOptions(1, mem="300M", setup=(f"env >{{store}}.env",), command="true")
submit_arrays(render_arrays(options, store, []), log_folder(options, store))
"""


def test_submission_from_inside_a_job(slurm: Path, tmp_path: Path) -> None:
    """What belongs to the job around does not reach the array."""
    around = ["srun", "--ntasks=1", "--cpus-per-task=2", "--mem-per-cpu=50M", "--export=ALL,SLURM_RESTART_COUNT=5"]
    output_of(*around, sys.executable, "-c", SUBMIT.format(store=str(tmp_path / "maps")))
    environ = tmp_path / "maps.env"
    wait_until(lambda: not tasks_of(tmp_path / "maps"), 60, "the array")
    found = dict(line.partition("=")[::2] for line in environ.read_text().splitlines())
    assert found["SLURM_MEM_PER_NODE"] == "300"
    assert found.keys().isdisjoint({"SLURM_MEM_PER_CPU", "SLURM_CPUS_PER_TASK", "SLURM_RESTART_COUNT", "SLURM_STEP_ID"})


def log_text(store: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(Path(f"{store}.logs").glob("*.log")))
