"""torchrun as the launcher: one worker per process, which never talk to each other."""

import subprocess
import sys
from pathlib import Path

from store import verify
from tests.extract.conftest import MakeFolder

JOB = ["--teacher", "test_resnet", "--random-weights", "0", "--num-classes", "2", "--input-size", "64",
       "--shard-size", "3", "--batch-size", "2", "--workers", "0", "--device", "cpu"]  # fmt: skip


def test_two_processes_fill_one_store(make_folder: MakeFolder, tmp_path: Path) -> None:
    images = make_folder({name: [f"{i}.jpg" for i in range(9)] for name in ("cat", "dog")})
    tokenmix = Path(sys.executable).with_name("tokenmix")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python", str(tokenmix)]
    done = subprocess.run([*launch, "extract", images, tmp_path / "maps", *JOB], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("this worker's share is complete") == 2
    assert verify(tmp_path / "maps").problems == ()
