"""The simulation against the real engine: one trace on one replica, replayed for real, with the real scheduler in virtual time, and in
the coarse model that fleets are made of. The costs are fitted to another run, just before."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import mean

from loadtests.mixed.compare import Plan, Say, busy_trace, costs_of, trace_of
from loadtests.mixed.engines import Bench
from loadtests.mixed.measures import average, first_picture_waits, first_token_waits, percentile, word_gaps
from loadtests.mixed.replay import watch_nothing
from loadtests.mixed.stand import Way
from loadtests.mixed.timeline import Replayed
from loadtests.simulate.costs import Costs
from loadtests.simulate.demands import DemandReader
from loadtests.simulate.fleet import Crowd, Fleet, FleetFigures
from loadtests.simulate.routing import LeastLoaded
from loadtests.simulate.station import Station
from loadtests.traces.sessions import Trace


@dataclass(frozen=True, slots=True)
class Compared:
    """One metric, real and simulated; ``coarse`` is nan where the coarse model does not say."""

    name: str
    real: float
    fine: float
    coarse: float

    @property
    def fine_error(self) -> float:
        """How far the simulation is off, relative to the real engine."""
        return abs(self.fine / self.real - 1.0)

    @property
    def coarse_error(self) -> float:
        return abs(self.coarse / self.real - 1.0)


@dataclass(frozen=True, slots=True)
class Validation:
    """All metrics of all loads, and the costs the simulation ran on."""

    costs: Costs
    by_load: dict[float, list[Compared]]


def validate(bench: Bench, plan: Plan, say: Say) -> Validation:
    """Replay each load of ``plan`` in every way."""
    busy = bench.serve(Way.PLAIT, busy_trace(plan), say("capacity"))
    sessions_per_s, costs = plan.num_sessions / busy.replayed.span_s, costs_of(busy)
    by_load: dict[float, list[Compared]] = {}
    for load in plan.loads:
        traces = [trace_of(plan, load, number, sessions_per_s) for number in range(plan.num_rounds)]
        watch = say(f"load {load:g}, real")
        real = [bench.serve(Way.PLAIT, trace, watch).replayed for trace in traces]
        fine = [bench.replica(costs).serve(Way.PLAIT, trace, watch_nothing).replayed for trace in traces]
        coarse = [run_coarse(bench, costs, trace) for trace in traces]
        by_load[load] = compared(real, fine, coarse)
    return Validation(costs, by_load)


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


def compared(real: list[Replayed], fine: list[Replayed], coarse: list[FleetFigures]) -> list[Compared]:
    """Put the metrics of the three side by side, over all traces of a load."""
    ours, theirs = _metrics(real), _metrics(fine)
    rough = {
        "span (s)": sum(figures.span_s for figures in coarse),
        "time to first token, mean (s)": mean(figures.first_word_mean_s for figures in coarse),
        "between words, mean (s)": mean(figures.gap_mean_s for figures in coarse),
        "time to first picture, mean (s)": mean(figures.first_picture_mean_s for figures in coarse),
    }
    return [Compared(name, value, theirs[name], rough.get(name, math.nan)) for name, value in ours.items()]


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
