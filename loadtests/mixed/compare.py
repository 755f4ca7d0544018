"""Plait and the peers' way on one trace, policy after policy on the same model in the same process.

First the machine's capacity: a trace with everybody there at once, served by Plait. It gives the sessions per second that loads are
shares of, and the step times that the cost of a request alone is fitted to. Then, for each load, a few traces, each replayed under both
policies, which take turns in going first, since a machine drifts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from loadtests.mixed.clock import WorkingClock
from loadtests.mixed.engines import Bench
from loadtests.mixed.measures import Measures, measure
from loadtests.mixed.metered import MeteredRunner, Sample, median_error
from loadtests.mixed.replay import Replay, Watch, at_once
from loadtests.mixed.timeline import Replayed
from loadtests.simulate.costs import Costs, fit_costs
from loadtests.traces.arrivals import Arrivals
from loadtests.traces.mix import Mix, make_trace
from loadtests.traces.sessions import Trace

POLICIES = ("plait", "staged")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is replayed: loads as shares of the capacity, and for each how many traces of how many sessions.

    Attributes:
        staged_pictures: pictures the peers' image engine draws at once.
    """

    mix: Mix
    arrivals: Arrivals
    loads: tuple[float, ...]
    num_sessions: int
    num_rounds: int
    seed: int
    staged_pictures: int


@dataclass(frozen=True, slots=True)
class Capacity:
    """What Plait does at most: sessions per second, and what its steps cost."""

    sessions_per_s: float
    costs: Costs


@dataclass(frozen=True, slots=True)
class Outcome:
    """One policy under one load: every replay and the figures over all of them."""

    policy: str
    load: float
    replays: list[Replayed]
    measures: Measures


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that `compare` found. ``cost_error`` is the median relative error of the engine's own predictions over the replays."""

    capacity: Capacity
    traces: list[Trace]
    outcomes: list[Outcome]
    cost_error: float


Say = Callable[[str], Watch]
"""Announces a part of the run and returns what is told of its progress."""


def compare(bench: Bench, plan: Plan, say: Say) -> Comparison:
    """Measure the capacity, then every policy under every load."""
    capacity = measure_capacity(bench, plan, say)
    replays: dict[tuple[str, float], list[Replayed]] = {(policy, load): [] for load in plan.loads for policy in POLICIES}
    traces: list[Trace] = []
    samples: list[Sample] = []
    for load in plan.loads:
        for number in range(plan.num_rounds):
            horizon_s = plan.num_sessions / (load * capacity.sessions_per_s)
            trace = make_trace(plan.mix, plan.arrivals, plan.num_sessions, horizon_s, plan.seed + number)
            traces.append(trace)
            alone_s = bench.replica(capacity.costs).alone(trace)
            for policy in POLICIES if number % 2 == 0 else reversed(POLICIES):
                replayed, noted = _replay(bench, plan, policy, trace, say(f"load {load:g}, round {number + 1}, {policy}"))
                samples += noted
                for record in replayed.records:
                    record.alone_s = alone_s[record.request_id]
                replays[policy, load].append(replayed)
    outcomes = [Outcome(policy, load, parts, measure(parts)) for (policy, load), parts in replays.items()]
    return Comparison(capacity, traces, outcomes, median_error(samples))


def measure_capacity(bench: Bench, plan: Plan, say: Say) -> Capacity:
    """Serve a trace of everybody at once, as fast as Plait can."""
    trace = at_once(make_trace(plan.mix, plan.arrivals, plan.num_sessions, 1.0, plan.seed + 1000))
    metered = bench.plait()
    replayed = Replay(trace, metered.policy, bench.config, WorkingClock()).run(say("capacity"))
    return Capacity(len(trace.sessions) / replayed.span_s, costs_of(metered.runner, replayed))


def costs_of(runner: MeteredRunner, replayed: Replayed) -> Costs:
    """Fit the costs of a run that was never idle; what it took outside the runner is every step's overhead."""
    samples = [(sample.load, sample.taken_s) for sample in runner.samples]
    overhead_s = (replayed.span_s - sum(seconds for _, seconds in samples)) / len(samples)
    return fit_costs(samples, max(0.0, overhead_s))


def _replay(bench: Bench, plan: Plan, policy: str, trace: Trace, watch: Watch) -> tuple[Replayed, list[Sample]]:
    """Replay under one policy; for Plait's, return a sample of each step too."""
    clock = WorkingClock()
    if policy == "staged":
        return Replay(trace, bench.staged(clock, plan.staged_pictures), bench.config, clock).run(watch), []
    metered = bench.plait()
    return Replay(trace, metered.policy, bench.config, clock).run(watch), metered.runner.samples
