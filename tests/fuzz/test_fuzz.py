"""No file makes the reader or the importers crash, hang, grow without bounds, or run anything."""

from functools import partial
from pathlib import Path

import pytest

from tests.fuzz.runner import fuzz
from tests.fuzz.stores import try_store
from tests.fuzz.tensors import try_tensor
from tests.store.conftest import make_rows, write_store

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux, which limits the memory of a child"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


@pytest.mark.parametrize("count", [80, pytest.param(5_000, marks=pytest.mark.slow)])
def test_stores(tmp_path: Path, count: int) -> None:
    write_store(tmp_path / "maps", make_rows(17), 6)
    outcomes, findings = fuzz(partial(try_store, tmp_path / "maps"), range(count))
    print(dict(outcomes.most_common()))
    assert not findings, f"{len(findings)} of {count}: {dict(list(findings.items())[:3])}"
    assert sum(outcomes.values()) == count
    assert sum(n for outcome, n in outcomes.items() if outcome.startswith("refused")) > count / 2


@pytest.mark.parametrize("count", [2_000, pytest.param(300_000, marks=pytest.mark.slow)])
def test_tensors(count: int) -> None:
    outcomes, findings = fuzz(try_tensor, range(count))
    print(dict(outcomes))
    assert not findings, f"{len(findings)} of {count}: {dict(list(findings.items())[:3])}"
    assert sum(outcomes.values()) == count
    assert min(outcomes["read"], outcomes["refused"]) > count / 100


def test_the_runner_finds_what_it_looks_for() -> None:
    """A crash, a hang, an exception, a program that is run and memory that grows: each under its own seed."""
    import os
    import time

    def case(seed: int) -> str:
        if seed == 1:
            os.abort()
        if seed == 2:
            time.sleep(60)
        if seed == 3:
            raise RuntimeError("wrong")
        if seed == 4:
            os.system("true")
        if seed == 5:
            bytearray(1 << 33)
        return "read"

    outcomes, findings = fuzz(case, range(7), seconds=1)
    assert findings.keys() == {1, 2, 3, 4, 5}
    for seed, said in {1: "ended with -6", 2: "no end", 3: "wrong", 4: "os.system", 5: "MemoryError"}.items():
        assert said in findings[seed]
    assert sum(outcomes.values()) == 2
