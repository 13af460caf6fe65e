"""Memory does not grow with the number of images: the short version of benchmarks/memory.py."""

import multiprocessing
import sys
from pathlib import Path

import pytest

from benchmarks.memory import growth_mb, resident_mb, run


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_flat(tmp_path: Path) -> None:
    samples = run(tmp_path, 1280, workers=1, every=2)
    assert len(samples) == 20
    assert samples[0][1] > 1.5 * resident_mb(), "the decoding process is counted"
    assert not multiprocessing.active_children()
    assert growth_mb(samples) < 10, samples  # the images' pixels are 16 MB at the teacher's size, 74 MB at their own
