"""Two hours of traffic on a virtual clock, three in ten given up: nothing piles up."""

from __future__ import annotations

import gc
import random
import tracemalloc
from dataclasses import replace

from server.engine.batch import Batch, BatchResult
from server.engine.options import SchedulerLimits
from server.engine.pages import PagePool
from server.engine.scheduler import Scheduler
from server.messages import ImageParams, OutputMode, Request, SamplingParams, Segment, TextSegment
from tests.clock import Clock
from tests.engine.fakes import EOS, FakeRunner, facts, make_request, picture_segment, refeed

DURATION_S = 2 * 3600.0
MEAN_GAP_S = 6.0
ABORTED_SHARE = 0.3
TENANTS = tuple("abcdefgh")
MAX_GROWTH_BYTES = 256 << 10
"""Between the first half and the second; what leaks with every request would be megabytes."""


class TimedRunner:
    """Computes nothing; a step lasts as long as its tokens would on a slow machine."""

    def __init__(self, clock: Clock) -> None:
        self._runner = FakeRunner(lambda sequence_id, index: EOS if (sequence_id + index) % 9 == 8 else 50 + index % 7)
        self._clock = clock

    def execute(self, batch: Batch) -> BatchResult:
        result = self._runner.execute(batch)
        self._runner.batches.clear()
        result.execute_s = 0.02 + 1e-3 * sum(batch.query_tokens().values())
        self._clock.now += result.execute_s
        return result


def random_request(rng: random.Random, name: str) -> Request:
    """A chat, some with pictures and some of them met before, a text-to-image, an edit or a story."""
    segments: list[Segment] = [TextSegment([rng.randrange(10, 14)] * rng.randint(4, 40))]
    if rng.random() < 0.4:
        segments.insert(0, picture_segment(16 * rng.randint(1, 4), 32))
    image = ImageParams(32, 16 * rng.randint(1, 4), num_timesteps=rng.randint(3, 12), max_images=rng.randint(1, 2))
    request = make_request(name, segments, rng.choice(list(OutputMode)), SamplingParams(max_tokens=rng.randint(2, 40)), image)
    deadline_s = rng.choice([None, None, None, 60.0])
    return replace(request, tenant=rng.choice(TENANTS), weight=rng.choice([1.0, 2.0]), deadline_s=deadline_s)


class Traffic:
    """Requests that arrive at random moments, and clients that give some of them up."""

    def __init__(self, scheduler: Scheduler, clock: Clock, rng: random.Random) -> None:
        self._scheduler, self._clock, self._rng = scheduler, clock, rng
        self._next_s = 0.0
        self._aborts: list[tuple[float, str]] = []
        self.num_submitted = self.num_aborted = self.num_finished = 0

    def arrive(self) -> None:
        """Let everything happen that is due."""
        while self._next_s <= self._clock.now:
            name = f"r{self.num_submitted}"
            self.num_submitted += 1
            self._scheduler.submit(random_request(self._rng, name))
            self._next_s += self._rng.expovariate(1.0 / MEAN_GAP_S)
            if self._rng.random() < ABORTED_SHARE:
                self._aborts.append((self._clock.now + self._rng.uniform(0.0, 2.0), name))
        for due_s, name in [abort for abort in self._aborts if abort[0] <= self._clock.now]:
            self._aborts.remove((due_s, name))
            self._scheduler.abort(name)
            self.num_aborted += 1

    def skip_to_next(self) -> None:
        """Nothing is to be done before the next arrival."""
        self._clock.now = max(self._clock.now, self._next_s)


def run_until(end_s: float, scheduler: Scheduler, runner: TimedRunner, clock: Clock, traffic: Traffic) -> int:
    """Serve until ``end_s``; return the longest queue seen."""
    longest = 0
    while clock.now < end_s:
        traffic.arrive()
        longest = max(longest, scheduler.num_waiting)
        batch = scheduler.schedule()
        if batch.is_empty:
            traffic.skip_to_next()
        else:
            scheduler.commit(batch, runner.execute(batch))
        traffic.num_finished += len(scheduler.take_outputs().finished)
        scheduler.take_dropped()
    return longest


def give_up_all(scheduler: Scheduler, traffic: Traffic) -> None:
    """Bring the engine to rest, so that memory can be compared."""
    scheduler.abort_all()
    traffic.num_finished += len(scheduler.take_outputs().finished)
    gc.collect()


def test_two_hours_of_traffic_with_aborts_leave_memory_pages_and_queues_flat() -> None:
    clock = Clock()
    pool = PagePool(600, 4)
    scheduler = Scheduler(pool, facts(), SchedulerLimits(max_batch_tokens=200, max_running=16), refeed, clock=clock)
    runner, traffic = TimedRunner(clock), Traffic(scheduler, clock, random.Random(11))
    run_until(DURATION_S / 4, scheduler, runner, clock, traffic)
    # What is kept for prompts to come was allocated unseen so far; a while later all of it has been seen.
    tracemalloc.start()
    try:
        warm_queue = run_until(DURATION_S / 2, scheduler, runner, clock, traffic)
        give_up_all(scheduler, traffic)
        before = tracemalloc.take_snapshot()
        late_queue = run_until(DURATION_S, scheduler, runner, clock, traffic)
        give_up_all(scheduler, traffic)
        growth = sum(change.size_diff for change in tracemalloc.take_snapshot().compare_to(before, "filename"))
    finally:
        tracemalloc.stop()

    assert traffic.num_submitted > 1000 and traffic.num_aborted > 0.2 * traffic.num_submitted
    assert traffic.num_finished == traffic.num_submitted
    assert growth < MAX_GROWTH_BYTES
    assert late_queue <= 2 * warm_queue + 2
    assert (pool.num_used, pool.num_free, scheduler.num_waiting, scheduler.running) == (0, 600, 0, [])
    assert len(scheduler.cache) <= 4 * pool.num_pages
