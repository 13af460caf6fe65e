"""Worker i of n: every shard is somebody's, exactly once, and who you are is read from the environment."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.errors import ExtractError
from extract.worker import Worker


@given(shards=st.sets(st.integers(0, 500)), count=st.integers(1, 40))
def test_shares_partition_the_shards(shards: set[int], count: int) -> None:
    shares = [Worker(i, count).share(sorted(shards)) for i in range(count)]
    assert sorted(shard for share in shares for shard in share) == sorted(shards)


def test_a_late_worker_owes_the_same_shards() -> None:
    """The share does not depend on what others have finished when this worker starts."""
    assert set(Worker(1, 3).share([4, 5, 6, 7])) <= set(Worker(1, 3).share(range(8)))


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Worker(0, 1)),
        ({"RANK": "2", "WORLD_SIZE": "8"}, Worker(2, 8)),
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "0"}, Worker(3, 4)),
        ({"SLURM_ARRAY_TASK_ID": "14", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "10",
          "SLURM_ARRAY_TASK_STEP": "2"}, Worker(2, 3)),
    ],
)  # fmt: skip
def test_environment(environ: dict[str, str], expected: Worker) -> None:
    assert Worker.from_environment(environ) == expected


@pytest.mark.parametrize("text", ["4/4", "-1/4", "1", "a/b", "1/0", ""])
def test_not_a_worker(text: str) -> None:
    with pytest.raises(ExtractError, match="i/n"):
        Worker.parse(text)
