"""Worker i of n: every shard is somebody's, exactly once, and who you are is read from the environment."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.errors import ExtractError
from extract.settings.worker import Worker, local_device


@given(shards=st.sets(st.integers(0, 500)), count=st.integers(1, 40))
def test_shares_partition_the_shards(shards: set[int], count: int) -> None:
    shares = [Worker(i, count).share(sorted(shards)) for i in range(count)]
    assert sorted(shard for share in shares for shard in share) == sorted(shards)
    assert all(Worker(i, count).owns(shard) for i, share in enumerate(shares) for shard in share)


def test_a_late_worker_has_the_same_share() -> None:
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
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8"}, Worker(3, 8)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, Worker(0, 1)),  # outside of srun
        ({"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "0",
          "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4"}, Worker(9, 12)),
    ],
)  # fmt: skip
def test_environment(environ: dict[str, str], expected: Worker) -> None:
    assert Worker.from_environment(environ) == expected


@given(shards=st.integers(1, 200), count=st.integers(1, 40), taken=st.sets(st.integers(0, 199)), data=st.data())
def test_next_shard_is_free_and_own_first(shards: int, count: int, taken: set[int], data: st.DataObject) -> None:
    worker = Worker(data.draw(st.integers(0, count - 1)), count)
    free = set(range(shards)) - taken
    shard = worker.next_shard(shards, taken)
    assert (shard is None) == (not free)
    if own := worker.share(free):
        assert shard == min(own)
    elif shard is not None:
        assert shard in sorted(free)[-count:]


def test_workers_without_a_share_spread_over_the_far_end() -> None:
    taken = set(range(90))
    assert {Worker(i, 110).next_shard(100, taken) for i in range(100, 110)} <= set(range(90, 100))
    assert {Worker(i, 40).next_shard(100, taken | set(range(i, 100, 40))) for i in range(40)} == set(range(90, 100))


@pytest.mark.parametrize(
    ("given_", "devices", "environ", "expected"),
    [
        (None, 0, {"LOCAL_RANK": "1"}, "cpu"),
        (None, 1, {}, "cuda:0"),
        (None, 4, {"LOCAL_RANK": "3"}, "cuda:3"),
        ("cuda", 4, {"SLURM_LOCALID": "2"}, "cuda:2"),
        ("cuda", 1, {"SLURM_LOCALID": "2"}, "cuda:0"),  # Slurm shows each task its own device
        ("cuda:1", 4, {"LOCAL_RANK": "3"}, "cuda:1"),
        ("cpu", 4, {"LOCAL_RANK": "3"}, "cpu"),
    ],
)
def test_local_device(given_: str | None, devices: int, environ: dict[str, str], expected: str) -> None:
    assert local_device(given_, devices, environ) == expected


@pytest.mark.parametrize(
    "environ",
    [
        {"RANK": "x", "WORLD_SIZE": "2"},
        {"SLURM_ARRAY_TASK_ID": "1"},
        {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_STEP": "0"},
        {"SLURM_STEP_NUM_TASKS": "2"},
    ],
)
def test_environment_that_makes_no_sense(environ: dict[str, str]) -> None:
    with pytest.raises(ExtractError, match="--worker I/N"):
        Worker.from_environment(environ)


@pytest.mark.parametrize("text", ["4/4", "-1/4", "1", "a/b", "1/0", ""])
def test_not_a_worker(text: str) -> None:
    with pytest.raises(ExtractError, match="i/n"):
        Worker.parse(text)
