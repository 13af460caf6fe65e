"""Who does which shard: claims on a real folder, and 1,000 workers that die at random in a simulation."""

from __future__ import annotations

import heapq
import os
import random
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from extract.job.shard_queue import MAX_PAUSE_S, ShardChoice, ShardQueue
from extract.settings.worker import Worker
from store import Header, create_store
from store.folder.claims import SILENT_S, list_shards

HEADER = Header(
    "label",
    {},
    {},
    (2, 2),
    "float16",
    60,
    10,
    {"root_name": "images", "class_names": [], "teacher_class": [], "digest": ""},
    {},
)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("extract.job.shard_queue.SETTLE_S", 0.0)  # on this folder nobody is slow to see
    create_store(tmp_path / "maps", HEADER)
    return tmp_path / "maps"


def claim_of(store: Path, shard: int, host: str, *, age_s: float = 0.0, pid: int = 1) -> Path:
    path = store / f"shard-{shard:05d}.h5.{host}.{pid}.tmp"
    path.write_bytes(b"")
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def test_what_others_are_at_work_on_is_left_to_them(store: Path) -> None:
    claim_of(store, 0, "zeus")
    (store / "shard-00002.h5").write_bytes(b"")
    queue = ShardQueue(store, HEADER, Worker(0, 2))
    assert queue.total() == 10
    assert [queue.take() for _ in range(5)] == [4, 5, 3, 1, None]
    assert queue.unfinished() == [0, 1, 3, 4, 5]
    assert queue.total() == 40
    queue.discard()
    assert [claim.host for claim in list_shards(store, HEADER).claims] == ["zeus"]


def test_silent_and_dead_writers_lose_their_shards(store: Path) -> None:
    silent = claim_of(store, 0, "zeus", age_s=SILENT_S + 30)
    dead = claim_of(store, 1, socket.gethostname(), pid=2**30)
    claim_of(store, 2, "zeus", age_s=SILENT_S - 30)
    queue = ShardQueue(store, HEADER, Worker())
    assert [queue.take() for _ in range(3)] == [0, 1, 3]
    assert not silent.exists()
    assert not dead.exists()


def test_a_clock_that_was_set_back_keeps_no_dead_writer_alive(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extract.job.shard_queue.SILENT_S", 0.2)
    dead, alive = (claim_of(store, shard, "zeus", age_s=-86_400, pid=shard) for shard in (0, 1))
    queue = ShardQueue(store, HEADER, Worker())
    assert [queue.take() for _ in range(5)] == [2, 3, 4, 5, None]
    time.sleep(0.3)
    os.utime(alive, (time.time() + 86_410,) * 2)  # a sign of life
    assert [queue.take() for _ in range(2)] == [0, None]
    assert not dead.exists()
    queue.discard()


def test_a_clock_that_was_set_forward_costs_time_only(store: Path) -> None:
    """Every claim looks silent: the shard is begun twice, to the same bytes, and the first writer is not disturbed."""
    first, second = ShardQueue(store, HEADER, Worker()), ShardQueue(store, HEADER, Worker())
    assert first.take() == 0
    os.utime(first.writers[0].temporary, (time.time() - 86_400,) * 2)
    assert second.take() == 0
    first.beat({"done": 1})
    first.discard()
    second.discard()
    assert list_shards(store, HEADER).claims == ()


def test_of_two_who_begin_at_once_the_first_by_name_goes_on(store: Path) -> None:
    queue = ShardQueue(store, HEADER, Worker())
    for shard, other in enumerate("!~"):
        queue.begin(shard)
        claim_of(store, shard, other)
    assert [queue.keep(shard) for shard in (0, 1)] == [False, True]
    assert list(queue.writers) == [1]
    assert len(list_shards(store, HEADER).claims) == 3


def test_a_folder_that_is_away_for_a_while(store: Path) -> None:
    away = store.rename(store.with_name("away"))
    back = threading.Timer(0.5, away.rename, [store])
    back.start()
    assert ShardQueue(store, HEADER, Worker()).take() == 0
    back.join()


def test_a_folder_that_stays_away(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extract.job.shard_queue.OUTAGE_S", 0.3)
    store.rename(store.with_name("away"))
    with pytest.raises(FileNotFoundError):
        ShardQueue(store, HEADER, Worker()).take()


def test_a_sign_of_life_carries_a_note(store: Path) -> None:
    queue = ShardQueue(store, HEADER, Worker())
    queue.take()
    (claim,) = list_shards(store, HEADER).claims
    assert claim.note() == {}
    os.utime(claim.path, (0, 0))
    queue.beat({"done": 3})
    (claim,) = list_shards(store, HEADER).claims
    assert (claim.shard, claim.pid, claim.host, claim.dead) == (0, os.getpid(), socket.gethostname(), False)
    assert claim.age_s < SILENT_S
    assert claim.note() == {"done": 3}
    queue.writers[0].temporary.unlink()  # a folder that vanishes for a while
    queue.beat({"done": 4})
    assert claim.note() == {}


@dataclass
class Folder:
    """A simulated store: shards finish, claims appear to others with a delay and end `SILENT_S` after a death."""

    delay_s: float
    finished: set[int] = field(default_factory=set)
    claims: dict[int, dict[int, float]] = field(default_factory=dict)  # shard -> worker -> since
    died: dict[int, float] = field(default_factory=dict)


@dataclass
class View:
    """What one simulated worker sees at `now`; implements `Claims`."""

    folder: Folder
    worker: int
    now: float = 0.0

    def taken(self) -> set[int]:
        claims = self.folder.claims.items()
        return self.folder.finished.union(shard for shard, who in claims if any(map(self._seen, who, who.values())))

    def begin(self, shard: int) -> None:
        self.folder.claims.setdefault(shard, {})[self.worker] = self.now

    def keep(self, shard: int) -> bool:
        claims = self.folder.claims.get(shard, {})
        kept = not any(other < self.worker and self._seen(other, since) for other, since in claims.items())
        if not kept:
            del claims[self.worker]
        return kept

    def _seen(self, other: int, since: float) -> bool:
        silent = self.now - self.folder.died.get(other, self.now) > SILENT_S
        return not silent and since + self.folder.delay_s <= self.now


@dataclass
class Outcome:
    finished: set[int]
    computed: float  # in shards, whether they were of use or not
    hours: float


def simulate(rng: random.Random, workers: int, shards: int, *, mortal: float, delay_s: float) -> Outcome:
    """Workers of different speed, each starting within a minute, a `mortal` share of them dying at a random time."""
    folder = Folder(delay_s)
    takes_s = [60 * rng.uniform(0.7, 1.5) for _ in range(workers)]
    longest = 1.5 * 60 * shards / workers
    dies = [rng.uniform(0, longest) if rng.random() < mortal else float("inf") for _ in range(workers)]
    events = [(rng.uniform(0, 60), i, -1) for i in range(workers)]  # time, worker, the shard that it completes then
    heapq.heapify(events)
    views = [View(folder, i) for i in range(workers)]
    choices = [ShardChoice(Worker(i, workers), shards, view) for i, view in enumerate(views)]
    computed, now = 0.0, 0.0
    while events:
        now, i, done = heapq.heappop(events)
        if dies[i] <= now:
            folder.died[i] = dies[i]
            computed += (1 - (now - dies[i]) / takes_s[i]) * (done >= 0)
            continue
        if done >= 0:
            folder.finished.add(done)
            folder.claims.pop(done, None)
            computed += 1
        views[i].now = now
        shard = choices[i].take(now)
        if shard is not None:
            heapq.heappush(events, (now + takes_s[i], i, shard))
        elif len(folder.finished) < shards:
            heapq.heappush(events, (now + MAX_PAUSE_S, i, -1))
    return Outcome(folder.finished, computed, now / 3600)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
def test_a_thousand_workers_with_random_deaths(seed: int) -> None:
    """A tenth die, what one writes the others see 1 s later: no shard is missed, little is computed twice."""
    outcome = simulate(random.Random(seed), 1000, 4_000, mortal=0.1, delay_s=1.0)
    twice = outcome.computed / 4_000 - 1
    print(f"seed {seed}: {100 * twice:.2f} % of the work was done twice or died with its worker")
    assert outcome.finished == set(range(4_000))
    assert 0 < twice < 0.02


def test_more_workers_than_shards() -> None:
    """300 shards for 1,000 workers, half of whom die: those without a share wait instead of doing them again."""
    outcome = simulate(random.Random(0), 1000, 300, mortal=0.5, delay_s=1.0)
    print(f"{outcome.computed / 300:.2f} times the work")
    assert outcome.finished == set(range(300))
