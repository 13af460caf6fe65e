"""A real Slurm for a test session: munged, slurmctld and two slurmd on this machine, as root, in a folder of its own.

`install()` fetches Debian's packages; `.ci/run` calls it. Without root or without the packages the tests are skipped.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
NODES = 2
PORT = 17817
# Pretend nodes without cgroups; two partitions, of which `high` preempts; four tasks fit at once.
CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# below 5 s the default of 120 s would hold back every requeued job
AuthInfo=socket={root}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd-%n.log
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=10
MinJobAge=600
MaxArraySize=4
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
{nodes}
PartitionName=debug Nodes=ALL Default=YES PriorityTier=1 GraceTime=20 State=UP
PartitionName=high Nodes=ALL PriorityTier=10 State=UP
"""
NODE = "NodeName=n{i} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=2000 State=UNKNOWN"


def install() -> None:
    """Install the packages without starting their services."""
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        subprocess.run(["apt-get", "update", "-qq"], check=True, env=environ)
        command = ["apt-get", "install", "-qq", "--no-install-recommends", *PACKAGES]
        subprocess.run(command, check=True, env=environ, stdout=subprocess.DEVNULL)
    finally:
        if ours:
            policy.unlink()


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Poll; AssertionError with `what` when it takes longer."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.2)


def output_of(*command: object) -> str:
    """Standard output; AssertionError with standard error where the command fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout.strip()


@pytest.fixture(scope="session")
def slurm() -> Iterator[Path]:
    """The folder of a running cluster; SLURM_CONF points into it."""
    if os.getuid() != 0:
        pytest.skip("Slurm's daemons need root here")
    missing = [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if not shutil.which(name)]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: apt-get install {' '.join(PACKAGES)}")
    root = Path(tempfile.mkdtemp(prefix="slurm-"))  # short, because the names of sockets are
    root.chmod(0o755)
    os.environ["SLURM_CONF"] = str(root / "slurm.conf")
    try:
        _start(root)
        yield root
    finally:
        subprocess.run(["scancel", "--user", "root"], capture_output=True)
        for pid_file in [*root.glob("slurmd-*.pid"), root / "slurmctld.pid", root / "munged.pid"]:
            _stop(pid_file)
        del os.environ["SLURM_CONF"]
        shutil.rmtree(root, ignore_errors=True)


def _start(root: Path) -> None:
    host = socket.gethostname().partition(".")[0]
    nodes = "\n".join(NODE.format(i=i, host=host, port=PORT + i) for i in range(1, NODES + 1))
    (root / "slurm.conf").write_text(CONFIG.format(host=host, root=root, port=PORT, nodes=nodes))
    (root / "state").mkdir()
    key = root / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    files = (f"--{name}-file={root}/munged.{name}" for name in ("pid", "log", "seed"))
    output_of("munged", "--force", f"--socket={root}/munge.socket", f"--key-file={key}", *files)
    output_of("slurmctld", "-c")
    wait_until(lambda: " UP" in _answer("scontrol", "ping"), 30, "slurmctld")
    for i in range(1, NODES + 1):
        output_of("slurmd", "-N", f"n{i}")
    wait_until(
        lambda: _answer("sinfo", "-hN", "-p", "debug", "-t", "idle", "-o", "%N").split() == ["n1", "n2"], 30, "n1"
    )


def _answer(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout


def _stop(pid_file: Path) -> None:
    """By the daemon's own record, and only if the process is still a daemon of ours."""
    try:
        pid = int(pid_file.read_text())
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except (OSError, ValueError):
        return
    if name in ("slurmd", "slurmctld", "munged"):
        os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + 20
        while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
            time.sleep(0.1)


if __name__ == "__main__":
    install()
