"""A replay's clock runs in its own turns alone, so that two replays by turns last as long as one after the other."""

from __future__ import annotations

import time
from itertools import pairwise

from loadtests.replays.clock import WorkingClock
from loadtests.replays.replay import Replay
from loadtests.replays.side_by_side import run_side_by_side
from loadtests.traces.arrivals import Arrivals
from loadtests.traces.mix import Mix, make_trace
from model.config import BagelConfig
from server.messages import FinishedOutput, FinishReason, Request, StepReport, StepStats, Usage
from tests.engine.fakes import refeed

STEP_S = 0.004
NUM_SESSIONS = 6


class SlowPolicy:
    """Takes a few steps of the same length for each request, one after the other; notes when it was at work.

    Those in ``at_work`` might still compute something, until they are told to stand still.
    """

    def __init__(self, name: str, num_steps: int, log: list[str], at_work: set[str]) -> None:
        self._name = name
        self._at_work = at_work
        self._num_steps = num_steps
        self._log = log
        self._waiting: list[Request] = []
        self._left = 0

    @property
    def has_work(self) -> bool:
        return bool(self._waiting)

    def submit(self, request: Request) -> None:
        self._waiting.append(request)
        self._left = self._left or self._num_steps

    def note_idle(self, seconds: float) -> None:
        pass

    def go_on(self) -> None:
        pass

    def stand_still(self) -> None:
        self._at_work.discard(self._name)

    def step(self) -> list[StepReport]:
        self._at_work.add(self._name)
        assert self._at_work == {self._name}, "the machine is its own"
        time.sleep(STEP_S)
        self._log.append(self._name)
        self._left -= 1
        if self._left:
            return []
        done = self._waiting.pop(0)
        self._left = self._num_steps if self._waiting else 0
        end = FinishedOutput(done.request_id, FinishReason.STOP, Usage())
        return [StepReport([], [], [], [], [end], StepStats())]


def test_each_clock_runs_in_its_own_turns_alone_and_both_replays_end_together() -> None:
    log: list[str] = []
    at_work: set[str] = set()
    trace = make_trace(Mix.named("tiny"), Arrivals.POISSON, NUM_SESSIONS, 0.01, 1)
    replays = {}
    for name, num_steps in (("fast", 5), ("slow", 15)):
        clock = WorkingClock()
        replays[name] = (Replay(trace, SlowPolicy(name, num_steps, log, at_work), BagelConfig.named("tiny"), clock, refeed), clock)

    start_s = time.perf_counter()
    replayed = run_side_by_side(replays, lambda now_s, num_done, num_all: None, turn_s=0.03)
    wall_s = time.perf_counter() - start_s

    assert all(len(one.records) == trace.num_requests for one in replayed.values())
    busy_s = sum(one.span_s - one.idle_s for one in replayed.values())
    assert busy_s <= 1.1 * wall_s, "a clock that ran on in the other's turns would count them twice"
    assert sum(one != other for one, other in pairwise(log)) >= 6
    assert set(log[-len(log) // 4 :]) == {"fast", "slow"}
