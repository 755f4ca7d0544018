"""The simulation against the real engine: one trace on one replica, replayed for real, with the real scheduler in virtual time, and in
the coarse model that fleets are made of.

A machine's speed drifts by the minute, so the costs that the simulation is judged by are fitted to the steps of the very replay that it is
compared with: how long steps of a load took there, and how the machine's speed changed meanwhile, is given, and what becomes of requests is
not. Which rows share a step, how many steps
there are, what is divided and what is let through, who waits for whom and how long follows from the scheduler and the costs alone, and is
what this checks. Costs fitted to another run just before, in which everybody is there at once, stand beside them: what they are further
off is drift.

Which step is slower than its load costs is chance. The simulation is run with several lucks and stands for their mean; how far they lie
apart says what a single replay can tell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import mean

from loadtests.comparison.compare import Plan, Say, busy_trace, costs_in_time_of, costs_of, trace_of
from loadtests.comparison.engines import Bench
from loadtests.percentile import percentile
from loadtests.replays.measures import average, first_picture_waits, first_token_waits, word_gaps
from loadtests.replays.stand import Served, Way
from loadtests.replays.timeline import Replayed
from loadtests.simulate.demands import DemandReader
from loadtests.simulate.fleet import Crowd, Fleet, FleetFigures
from loadtests.simulate.routing import LeastLoaded
from loadtests.simulate.station import Station
from loadtests.traces.sessions import Trace
from loadtests.virtual.costs import Costs

NUM_LUCKS = 8
LARGEST_ERROR = 0.1
"""So far may the simulation be off in each metric."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One metric, real and simulated.

    Attributes:
        fine, low, high: mean, least and greatest of the simulations on costs of the same replays.
        foreseen: mean of the simulations on costs of the run before.
        coarse: nan where the coarse model does not say.
    """

    name: str
    real: float
    fine: float
    low: float
    high: float
    foreseen: float
    coarse: float

    @property
    def fine_error(self) -> float:
        """How far the simulation is off, relative to the real engine."""
        return self.fine / self.real - 1.0

    @property
    def foreseen_error(self) -> float:
        return self.foreseen / self.real - 1.0

    @property
    def coarse_error(self) -> float:
        return self.coarse / self.real - 1.0

    @property
    def holds(self) -> bool:
        """Whether the simulation is as close as it should be."""
        return abs(self.fine_error) <= LARGEST_ERROR


@dataclass(frozen=True, slots=True)
class Validated:
    """All metrics of one load, and the costs the simulation of each trace ran on."""

    load: float
    costs: list[Costs]
    metrics: list[Compared]


@dataclass(frozen=True, slots=True)
class Validation:
    """All loads, and the costs of the run before."""

    before: Costs
    loads: list[Validated]

    @property
    def holds(self) -> bool:
        return all(one.holds for validated in self.loads for one in validated.metrics)


def validate(bench: Bench, plan: Plan, say: Say) -> Validation:
    """Replay each load of ``plan`` in every way."""
    crowd = busy_trace(plan)
    busy = bench.serve(Way.PLAIT, crowd, say("capacity"))
    before, sessions_per_s = costs_of(busy), plan.num_sessions / busy.replayed.span_s
    loads = []
    for load in plan.loads:
        traces = [trace_of(plan, load, number, sessions_per_s) for number in range(plan.num_rounds)]
        watch = say(f"load {load:g}, real")
        real = [bench.serve(Way.PLAIT, trace, watch) for trace in traces]
        costs = [costs_in_time_of(served) for served in real]
        fine, foreseen = (simulate(bench, several, crowd, traces) for several in (costs, [before] * len(traces)))
        coarse = [run_coarse(bench, own, trace) for own, trace in zip(costs, traces, strict=True)]
        loads.append(Validated(load, costs, compared(_replays(real), fine, foreseen, coarse)))
    return Validation(before, loads)


def simulate(bench: Bench, costs: list[Costs], before: Trace, traces: list[Trace]) -> list[list[Replayed]]:
    """Serve each trace on its costs after ``before``, as the real engine did, with several lucks; return the replays of each."""
    replicas = [bench.replica(own) for own in costs]
    return [
        [replace(replica, luck_seed=luck).serve_after(before, trace).replayed for replica, trace in zip(replicas, traces, strict=True)]
        for luck in range(NUM_LUCKS)
    ]


def _replays(parts: list[Served]) -> list[Replayed]:
    return [served.replayed for served in parts]


def run_coarse(bench: Bench, costs: Costs, trace: Trace) -> FleetFigures:
    """Run ``trace`` on one replica of the coarse model."""
    reader = DemandReader(bench.config, costs)
    crowd = Crowd(
        [session.arrival_s for session in trace.sessions],
        list(range(len(trace.sessions))),
        [reader.demands(session) for session in trace.sessions],
    )
    options = bench.options
    assert options.num_pages is not None, "a simulated engine needs to know its pages"
    target_s = options.inter_token_target_s or math.inf
    cache_rows = options.num_pages * options.page_size

    def station() -> Station:
        return Station(reader.fixed_s, reader.mixed_s, target_s, options.min_target_decodes)

    return Fleet(1, station, LeastLoaded(1, 0), cache_rows).run(crowd)


def compared(
    real: list[Replayed], fine: list[list[Replayed]], foreseen: list[list[Replayed]], coarse: list[FleetFigures]
) -> list[Compared]:
    """Put the metrics side by side, over all traces of a load; simulations come by their luck."""
    ours, theirs, others = _metrics(real), [_metrics(one) for one in fine], [_metrics(one) for one in foreseen]
    rough = {
        "span (s)": sum(figures.span_s for figures in coarse),
        "time to first token, mean (s)": mean(figures.first_word_mean_s for figures in coarse),
        "between words, mean (s)": mean(figures.gap_mean_s for figures in coarse),
        "time to first picture, mean (s)": mean(figures.first_picture_mean_s for figures in coarse),
    }

    def side_by_side(name: str) -> Compared:
        values = [metrics[name] for metrics in theirs]
        foreseen_mean = mean(metrics[name] for metrics in others)
        return Compared(name, ours[name], mean(values), min(values), max(values), foreseen_mean, rough.get(name, math.nan))

    return [side_by_side(name) for name in ours]


def _metrics(replays: list[Replayed]) -> dict[str, float]:
    records = [record for replayed in replays for record in replayed.records]
    gaps = word_gaps(records)
    lanes = {lane: [record.latency_s for record in records if record.lane == lane] for lane in ("text", "picture")}
    return {
        "span (s)": sum(replayed.span_s for replayed in replays),
        "time to first token, mean (s)": average(first_token_waits(records)),
        "between words, mean (s)": average(gaps),
        "between words, p99 (s)": percentile(gaps, 99),
        "time to first picture, mean (s)": average(first_picture_waits(records)),
        **{f"latency, {lane} lane, mean (s)": average(values) for lane, values in lanes.items()},
    }
