"""Reading under load: workers, ranks, many reads, stores larger than memory, and file systems that fail."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.read import write_store
from benchmarks.workers import copies_held, read_sparse, sparse_store

ROOT = Path(__file__).parents[3]

pytestmark = [
    pytest.mark.skipif(
        not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux, which tells whose memory it is"
    ),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("load") / "maps"
    write_store(path, np.random.default_rng(0), 20_000, 16)
    return path


def measured(call: str, path: Path) -> float:
    """A call of benchmarks/workers.py in a process of its own: in that of the tests, what went before counts too."""
    name = call.partition("(")[0]
    code = f"import sys; from pathlib import Path; from benchmarks.workers import {name}; print({call})"
    done = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.parametrize(
    ("method", "workers"),
    [("fork", 4), *(pytest.param(method, 16, marks=pytest.mark.slow) for method in ("fork", "spawn"))],
)
def test_a_worker_adds_less_than_a_megabyte(large: Path, method: str, workers: int) -> None:
    assert measured(f"private_mb(Path(sys.argv[1]), {method!r}, {workers}, epochs=3)", large) < 1


@pytest.mark.parametrize("reads", [50_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow(large: Path, reads: int) -> None:
    assert measured(f"growth_mb(Path(sys.argv[1]), {reads})", large) < 0.25


def test_ranks_of_a_node_hold_one_copy(large: Path) -> None:
    assert 0.9 < copies_held(large, 8) < 1.1


@pytest.mark.slow
def test_a_store_larger_than_memory(tmp_path: Path) -> None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    result = read_sparse(tmp_path / "maps", int(1.2 * memory))
    assert result["GB on the disk"] < 0.1
    assert result["private MB"] < 1


def test_sparse_shards_are_read_as_any_other(tmp_path: Path) -> None:
    store = sparse_store(tmp_path / "maps", 64 << 20, side=64, shard_rows=1000)
    assert sum(file.stat().st_blocks * 512 for file in (tmp_path / "maps").iterdir()) < 2 << 20
    assert not store.read(range(0, len(store), 7)).any()


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler, for a library that makes system calls fail")
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return library


def opened(maps: Path, shim: Path, call: str, code: int) -> subprocess.CompletedProcess[str]:
    """Open and read in a process in which the call fails on the second shard."""
    program = "import sys; from store import MapStore; print(MapStore(sys.argv[1]).read([16]).shape)"
    faults = {"LD_PRELOAD": str(shim), "FAULT_CALL": call, "FAULT_ERRNO": str(code), "FAULT_FILE": "shard-00001.h5"}
    command = [sys.executable, "-c", program, str(maps)]
    return subprocess.run(command, env={**os.environ, **faults}, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("call", "code", "said"),
    [
        ("open", errno.ESTALE, "Stale file handle"),
        ("open", errno.EACCES, "Permission denied"),
        ("pread", errno.EIO, "Input/output error"),
        ("mmap", errno.EIO, "cannot be mapped: [Errno 5] Input/output error"),
        ("mmap", errno.ENODEV, "cannot be mapped: [Errno 19] No such device"),
    ],
)
def test_a_failing_file_system_is_named_and_no_shard_is_to_be_removed(
    maps: Path, shim: Path, call: str, code: int, said: str
) -> None:
    ended = opened(maps, shim, call, code)
    assert ended.returncode == 1
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("store.errors.ShardError"), ended.stderr
    assert "shard-00001.h5" in last
    assert said in last
    assert "the file system failed, not the shard: check the mount" in last


def test_a_mapping_beyond_the_limits_says_so(maps: Path, shim: Path) -> None:
    assert "Cannot allocate memory: " in opened(maps, shim, "mmap", errno.ENOMEM).stderr.splitlines()[-1]


def test_a_slow_file_system_is_waited_for(maps: Path, shim: Path) -> None:
    started = time.monotonic()
    assert opened(maps, shim, "open", 0).stdout == "(1, 3, 5)\n"
    assert time.monotonic() - started > 0.9  # opened three times at least


def test_a_shard_cut_short_while_it_is_mapped_kills_its_reader_and_no_other(maps: Path) -> None:
    """There is no error to raise: the system ends the process. Replacing by rename, as is the rule, does no harm."""
    program = (
        "import faulthandler, sys; faulthandler.enable()\n"
        "from store import MapStore\n"
        "store = MapStore(sys.argv[1], check=False)\n"
        "print('open', flush=True); sys.stdin.readline(); print(store.read([16]).shape)"
    )
    for cut, status in ((False, 0), (True, -signal.SIGBUS)):
        command = [sys.executable, "-c", program, str(maps)]
        with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True) as reader:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "open\n"
            shard = maps / "shard-00002.h5"
            if cut:
                os.truncate(shard, 100)
            else:
                shutil.copy(shard, maps / "new")
                os.replace(maps / "new", shard)
            _, said = reader.communicate("\n", timeout=60)
        assert reader.returncode == status
        assert not cut or "store/reading/mapped.py" in said
