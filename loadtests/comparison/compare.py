"""Plait and the peers' way on one trace, by turns of a second on the same model in the same process, since a machine drifts.

First the capacity: a trace with everybody there at once. Plait's gives the sessions per second that loads are shares of, and the step
times that the cost of a request alone is fitted to. Then, for each load, a few traces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from loadtests.replays.measures import Measures, measure
from loadtests.replays.metered import Sample, median_error
from loadtests.replays.replay import Watch, at_once
from loadtests.replays.stand import Served, Stand, Way
from loadtests.replays.timeline import Replayed
from loadtests.traces.arrivals import Arrivals
from loadtests.traces.mix import Mix, make_trace
from loadtests.traces.sessions import Trace
from loadtests.virtual.costs import Costs, MeasuredStep, fit_costs, fit_in_time

LOAD_SEEDS, BUSY_SEEDS = 100, 10_000
"""How far apart the seeds of two loads are, and those of the capacity."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is replayed: loads as shares of the capacity, and for each how many traces of how many sessions."""

    mix: Mix
    arrivals: Arrivals
    loads: tuple[float, ...]
    num_sessions: int
    num_rounds: int
    seed: int


@dataclass(frozen=True, slots=True)
class Capacity:
    """Sessions per second that Plait does at most, and the peers' way; what Plait's steps cost."""

    sessions_per_s: float
    staged_sessions_per_s: float
    costs: Costs


@dataclass(frozen=True, slots=True)
class Outcome:
    """One way under one load: every replay and the figures over all of them."""

    way: Way
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

Alone = Callable[[Trace], dict[str, float]]
"""Tells how long each request of a trace takes on an idle machine, by its id."""


def compare(stand: Stand, alone: Alone, plan: Plan, capacity: Capacity, say: Say) -> Comparison:
    """Serve every trace of every load in both ways."""
    replays: dict[tuple[Way, float], list[Replayed]] = {(way, load): [] for load in plan.loads for way in Way}
    traces: list[Trace] = []
    samples: list[Sample] = []
    for load in plan.loads:
        for number in range(plan.num_rounds):
            trace = trace_of(plan, load, number, capacity.sessions_per_s)
            traces.append(trace)
            alone_s = alone(trace)
            for way, served in stand.serve_all(trace, say(f"load {load:g}, round {number + 1}")).items():
                for record in served.replayed.records:
                    record.alone_s = alone_s[record.request_id]
                replays[way, load].append(served.replayed)
                samples += served.samples
    outcomes = [Outcome(way, load, parts, measure(parts)) for (way, load), parts in replays.items()]
    return Comparison(capacity, traces, outcomes, median_error(samples))


def trace_of(plan: Plan, load: float, number: int, sessions_per_s: float) -> Trace:
    """Draw trace ``number`` of a load, a share of ``sessions_per_s``; no two traces share a session, which a cache would remember."""
    horizon_s = plan.num_sessions / (load * sessions_per_s)
    return make_trace(plan.mix, plan.arrivals, plan.num_sessions, horizon_s, plan.seed + LOAD_SEEDS * plan.loads.index(load) + number)


def measure_capacity(stand: Stand, plan: Plan, say: Say) -> Capacity:
    """Serve a trace of everybody at once, as fast as either way can."""
    trace = busy_trace(plan)
    served = stand.serve_all(trace, say("capacity"))
    plait, staged = served[Way.PLAIT], served[Way.STAGED]
    num = len(trace.sessions)
    return Capacity(num / plait.replayed.span_s, num / staged.replayed.span_s, costs_of(plait))


def busy_trace(plan: Plan) -> Trace:
    """Draw a trace with everybody there at once, other sessions than those of the loads."""
    return at_once(make_trace(plan.mix, plan.arrivals, plan.num_sessions, 1.0, plan.seed + BUSY_SEEDS))


def costs_of(served: Served) -> Costs:
    """Fit the costs of a replay; what was taken outside the runner while there was work, arrivals apart, is every step's overhead."""
    return _completed(fit_costs(_steps_of(served), _overhead_s(served)), served)


def costs_in_time_of(served: Served) -> Costs:
    """Do the same, and tell how the machine's speed changed meanwhile."""
    return _completed(fit_in_time(_steps_of(served), _overhead_s(served)), served)


def _steps_of(served: Served) -> list[MeasuredStep]:
    began_s, left_share = served.replayed.began_s, 1.0 - served.share_of_steps
    return [
        MeasuredStep(
            one.load,
            one.taken_s - left_share * one.beside_s,
            one.is_cold,
            one.is_beside,
            one.bits_s,
            one.bits_per_layer,
            one.beside_s,
            one.at_s - began_s,
        )
        for one in served.samples
    ]


def _overhead_s(served: Served) -> float:
    replayed = served.replayed
    busy_s = replayed.span_s - replayed.idle_s - replayed.arrivals_s
    # Beside a pass a step, and what goes with it, takes its share of the machine; the pass has taken the rest.
    shares = [served.share_of_steps if sample.is_beside else 1.0 for sample in served.samples]
    taken_s = sum(share * sample.taken_s for share, sample in zip(shares, served.samples, strict=True))
    return max(0.0, (busy_s - taken_s) / sum(shares))


def _completed(costs: Costs, served: Served) -> Costs:
    arrival_s = served.replayed.arrivals_s / len(served.replayed.records)
    pace_beside = costs.pace_beside or 1.0 - served.share_of_steps
    return replace(costs, arrival_s=arrival_s, share_of_steps=served.share_of_steps, pace_beside=pace_beside)
