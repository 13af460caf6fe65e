"""What a person is told of a store's state."""

from dataclasses import replace

from extract.job.status import Status, WorkerState
from tokenmix_commands.output.status_lines import status_lines

WORKING = WorkerState("node0", 7, (50,), "working", 1.0, 10.0, 0.2, 0.7, 0.1)
WORKERS = (
    *(replace(WORKING, pid=pid) for pid in range(4)),
    replace(WORKING, pid=8, state="slow", rate=2.0),
    replace(WORKING, pid=9, state="silent", shards=(61, 64), age_s=180.0, rate=None),
    replace(WORKING, pid=10, state="dead"),
    replace(WORKING, pid=11, state="stuck", rate=None, waits_for="a/1.jpg", waits_s=240.4),
)
STATUS = Status(1005, 395, 101, 40, 3.9, 156.4, WORKERS, {"RUNNING": 7, "FAILED": 1}, (("a/b.jpg", "torn"),))


def test_all_there_is_to_say() -> None:
    assert list(status_lines(STATUS)) == [
        "rows      395 of 1005 (39.3 %)",
        "shards    40 of 101",
        "speed     3.9 img/s over the last 10 minutes, 0:02:36 to go",
        "slurm     1 FAILED, 7 RUNNING",
        "workers   1 dead, 1 silent, 1 slow, 1 stuck, 4 working",
        "time      read 20 %, compute 70 %, write 10 % (median worker)",
        "  silent: node0 pid 9, shards 61, 64, 180 s ago",
        "  slow: node0 pid 8, shards 50, 1 s ago, 2.0 img/s",
        "  dead: node0 pid 10, shards 50, 1 s ago, 10.0 img/s",
        "  stuck: node0 pid 11, shards 50, reading 'a/1.jpg' for 240 s",
        "unreadable: 'a/b.jpg': torn",
    ]


def test_a_store_that_nobody_works_on() -> None:
    lines = list(status_lines(Status(10, 5, 2, 1, 0.0, None, (), {}, None)))
    assert lines[2:] == ["speed     0.0 img/s over the last 10 minutes, - to go"]
    assert len(list(status_lines(Status(10, 10, 2, 2, 0.0, None, (), {}, None)))) == 2
