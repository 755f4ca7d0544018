"""How many replicas: the same hour of traffic on fleets of growing size, under two routings, and where the knee is.

The knee is the smallest fleet whose 99th percentiles, of the first word and of the first picture, are within twice those of the largest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from statistics import mean

import numpy as np

from loadtests.simulate.demands import Demand, DemandReader
from loadtests.simulate.fleet import Fleet, FleetFigures, Watch, draw_crowd
from loadtests.simulate.routing import LeastLoaded, PrefixAffine, Routing
from loadtests.simulate.station import Station
from loadtests.traces.arrivals import Arrivals, arrival_times
from loadtests.traces.mix import Mix, make_trace
from loadtests.virtual.costs import Costs
from model.config import BagelConfig

NUM_SAMPLES = 2000
SLACK = 1.25
"""By what factor a replica's backlog may exceed the mean under prefix-affine routing."""
LEAST_BACKLOG_REQUESTS = 2.0
"""A replica with less work than so many mean requests before it turns no session away."""
KNEE = 2.0
SECONDS_OF_AN_HOUR = 3600.0


class Router(Enum):
    LEAST_LOADED = "least-loaded"
    PREFIX_AFFINE = "prefix-affine"


@dataclass(frozen=True, slots=True)
class Machine:
    """A replica in the coarse model: the model's sizes, its costs, the rows of its cache, the inter-token target and the
    decode steps it counts as at least."""

    config: BagelConfig
    costs: Costs
    cache_rows: int
    target_s: float
    min_decodes: float


@dataclass(frozen=True, slots=True)
class Traffic:
    """What comes: a mix, sessions per second on average, for how long."""

    mix: Mix
    arrivals: Arrivals
    sessions_per_s: float
    seconds: float
    seed: int


@dataclass(frozen=True, slots=True)
class Fared:
    """A fleet under a routing, what it met with and what it costs."""

    router: Router
    figures: FleetFigures
    price_per_hour: float

    @property
    def replica_hours(self) -> float:
        return self.figures.num_replicas * self.figures.span_s / SECONDS_OF_AN_HOUR

    @property
    def price_per_thousand(self) -> float:
        """The price of a thousand requests."""
        return 1000.0 * self.replica_hours * self.price_per_hour / max(1, self.figures.num_requests)


class Planner:
    """Samples of a mix on a machine, to try fleets with."""

    def __init__(self, machine: Machine, mix: Mix, seed: int) -> None:
        self._machine = machine
        self._reader = DemandReader(machine.config, machine.costs)
        samples = make_trace(mix, Arrivals.POISSON, NUM_SAMPLES, 1.0, seed)
        self._demands: list[tuple[Demand, ...]] = [self._reader.demands(session) for session in samples.sessions]

    @property
    def seconds_per_session(self) -> float:
        """Seconds of a machine that a session takes on average, with nothing cached."""
        return mean(sum(demand.seconds for demand in demands) for demands in self._demands)

    @property
    def seconds_per_request(self) -> float:
        return mean(demand.seconds for demands in self._demands for demand in demands)

    def fare(self, num_replicas: int, router: Router, traffic: Traffic, watch: Watch) -> FleetFigures:
        """Run ``traffic`` on a fleet."""
        rng = np.random.default_rng([traffic.seed, 1])
        times = arrival_times(traffic.arrivals, round(traffic.sessions_per_s * traffic.seconds), traffic.seconds, rng)
        machine = self._machine
        fleet = Fleet(
            num_replicas,
            lambda: Station(self._reader.fixed_s, self._reader.mixed_s, machine.target_s, machine.min_decodes),
            self._routing(num_replicas, router, traffic.seed),
            machine.cache_rows,
        )
        return fleet.run(draw_crowd(times, self._demands, traffic.seed), watch)

    def _routing(self, num_replicas: int, router: Router, seed: int) -> Routing:
        if router is Router.LEAST_LOADED:
            return LeastLoaded(num_replicas, seed)
        return PrefixAffine(num_replicas, SLACK, LEAST_BACKLOG_REQUESTS * self.seconds_per_request)


def fleet_sizes(needed: float) -> list[int]:
    """Return sizes around the number of replicas that the work alone would fill."""
    shares = (0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0)
    return sorted({max(1, math.ceil(needed * share)) for share in shares})


def try_fleets(planner: Planner, traffics: list[tuple[int, Traffic]], price_per_hour: float, say: Callable[[str], Watch]) -> list[Fared]:
    """Run each fleet size with its traffic under both routings."""
    return [
        Fared(router, planner.fare(size, router, traffic, say(f"{size} replicas, {router.value}")), price_per_hour)
        for size, traffic in traffics
        for router in Router
    ]


def knee(fared: list[Fared], router: Router) -> int:
    """Return the smallest fleet that is nearly as quick as the largest."""
    figures = sorted((one.figures for one in fared if one.router is router), key=lambda one: one.num_replicas)
    words_s, pictures_s = KNEE * figures[-1].first_word_p99_s, KNEE * figures[-1].first_picture_p99_s
    return next(one.num_replicas for one in figures if not one.first_word_p99_s > words_s and not one.first_picture_p99_s > pictures_s)
