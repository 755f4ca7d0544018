"""A fleet in the coarse model: sessions arrive, each turn is routed to a replica, replicas are stations.

An event is a session's next turn or something at a station. Sessions are drawn from a few thousand samples, so that an hour of ten
thousand replicas needs no more memory than its arrivals.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from loadtests.percentile import percentile
from loadtests.replays.measures import average
from loadtests.simulate.demands import Demand
from loadtests.simulate.routing import Routing
from loadtests.simulate.station import NEVER, Station

WATCH_EVERY = 5000

Watch = Callable[[int, int], None]
"""(sessions arrived, sessions in all) now and then."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """Sessions to come: when, and which sample each is."""

    arrivals_s: list[float]
    samples: list[int]
    demands: list[tuple[Demand, ...]]


@dataclass(slots=True)
class Visit:
    """A session under way: the turn and stage it is at, where, since when, and whether its history was found there."""

    key: int
    demands: tuple[Demand, ...]
    turn: int = 0
    stage: int = 0
    replica: int = -1
    asked_s: float = 0.0
    first_word_s: float = -1.0
    text_began_s: float = 0.0
    is_warm: bool = False


@dataclass(slots=True)
class Tally:
    """What the fleet's requests met with: seconds to the first word and to the first picture, all gaps between words together."""

    first_words: list[float] = field(default_factory=list)
    first_pictures: list[float] = field(default_factory=list)
    gaps_s: float = 0.0
    num_gaps: int = 0
    num_requests: int = 0
    num_returns: int = 0
    num_hits: int = 0


@dataclass(frozen=True, slots=True)
class FleetFigures:
    """A fleet under a load. ``hit_rate`` is of later turns whose history was still where they were sent."""

    num_replicas: int
    num_requests: int
    span_s: float
    utilisation: float
    hit_rate: float
    first_word_mean_s: float
    first_word_p99_s: float
    gap_mean_s: float
    first_picture_mean_s: float
    first_picture_p99_s: float


class Fleet:
    """Replicas, their routing, and what each holds in its prefix cache (by session, least recently used out first)."""

    def __init__(self, num_replicas: int, station: Callable[[], Station], routing: Routing, cache_rows: int) -> None:
        self._stations = [station() for _ in range(num_replicas)]
        self._routing = routing
        self._cache_rows = cache_rows
        self._held: list[OrderedDict[int, int]] = [OrderedDict() for _ in range(num_replicas)]
        self._held_rows = [0] * num_replicas
        self._backlogs_s = [0.0] * num_replicas
        self._total_backlog_s = 0.0
        self._visits: dict[int, Visit] = {}
        self._events: list[tuple[float, int, int]] = []
        self._turns: list[tuple[float, int]] = []
        self._tally = Tally()

    def run(self, crowd: Crowd, watch: Watch = lambda num_done, num_all: None) -> FleetFigures:
        """Serve everybody and return what they met with."""
        num_sessions, num_arrived, now_s = len(crowd.arrivals_s), 0, 0.0
        while num_arrived < num_sessions or self._turns or self._events:
            arrival_s = crowd.arrivals_s[num_arrived] if num_arrived < num_sessions else NEVER
            turn_s = self._turns[0][0] if self._turns else NEVER
            event_s = self._events[0][0] if self._events else NEVER
            if arrival_s <= turn_s and arrival_s <= event_s:
                now_s = arrival_s
                self._visits[num_arrived] = Visit(num_arrived, crowd.demands[crowd.samples[num_arrived]])
                self._ask(self._visits[num_arrived], now_s)
                num_arrived += 1
                if num_arrived % WATCH_EVERY == 0:
                    watch(num_arrived, num_sessions)
            elif turn_s <= event_s:
                now_s, key = heapq.heappop(self._turns)
                self._ask(self._visits[key], now_s)
            else:
                time_s, replica, version = heapq.heappop(self._events)
                if version == self._stations[replica].version:
                    now_s = time_s
                    self._at_event(replica, now_s)
        return self._figures(now_s)

    def _ask(self, visit: Visit, now_s: float) -> None:
        """Route the next turn and put its first stage before the replica."""
        mean_s = self._total_backlog_s / len(self._stations)
        replica = self._routing.choose(visit.key, self._backlogs_s, mean_s)
        demand = visit.demands[visit.turn]
        visit.replica, visit.stage, visit.asked_s, visit.first_word_s = replica, 0, now_s, -1.0
        visit.is_warm = visit.key in self._held[replica]
        self._tally.num_requests += 1
        if visit.turn:
            self._tally.num_returns += 1
            self._tally.num_hits += visit.is_warm
        self._load(replica, demand.seconds)
        station = self._stations[replica]
        station.advance(now_s)
        station.add(demand.stages[0], visit.key, is_warm=visit.is_warm)
        self._expect(replica)

    def _load(self, replica: int, seconds: float) -> None:
        self._backlogs_s[replica] += seconds
        self._total_backlog_s += seconds

    def _expect(self, replica: int) -> None:
        """Note when the replica's next event is; earlier notes are void by their version."""
        station = self._stations[replica]
        time_s = station.next_event_s()
        if time_s < NEVER:
            heapq.heappush(self._events, (time_s, replica, station.version))

    def _at_event(self, replica: int, now_s: float) -> None:
        station = self._stations[replica]
        station.advance(now_s)
        begun, ended = station.take_done()
        for job in begun:
            visit = self._visits[job.owner]
            visit.text_began_s = now_s
            if visit.first_word_s < 0:
                visit.first_word_s = now_s + station.pace().step_s
                self._tally.first_words.append(visit.first_word_s - visit.asked_s)
        for job in ended:
            self._end_stage(self._visits[job.owner], now_s)
        self._expect(replica)

    def _end_stage(self, visit: Visit, now_s: float) -> None:
        """Go on to the next stage, the next turn or home."""
        demand = visit.demands[visit.turn]
        stage = demand.stages[visit.stage]
        if stage.is_picture:
            if not any(earlier.is_picture for earlier in demand.stages[: visit.stage]):
                self._tally.first_pictures.append(now_s - visit.asked_s)
        else:
            self._tally.gaps_s += now_s - visit.text_began_s
            self._tally.num_gaps += stage.num_steps
        visit.stage += 1
        if visit.stage < len(demand.stages):
            self._stations[visit.replica].add(demand.stages[visit.stage], visit.key, is_warm=True)
            return
        self._load(visit.replica, -demand.seconds)
        self._keep(visit, demand.num_rows)
        visit.turn += 1
        if visit.turn == len(visit.demands):
            del self._visits[visit.key]
        else:
            heapq.heappush(self._turns, (now_s + visit.demands[visit.turn].pause_s, visit.key))

    def _keep(self, visit: Visit, num_rows: int) -> None:
        """Leave the session's rows in its replica's cache, in place of those not asked for the longest."""
        held = self._held[visit.replica]
        self._held_rows[visit.replica] += num_rows - held.pop(visit.key, 0)
        held[visit.key] = num_rows
        while self._held_rows[visit.replica] > self._cache_rows:
            _, dropped = held.popitem(last=False)
            self._held_rows[visit.replica] -= dropped

    def _figures(self, span_s: float) -> FleetFigures:
        tally = self._tally
        return FleetFigures(
            num_replicas=len(self._stations),
            num_requests=tally.num_requests,
            span_s=span_s,
            utilisation=sum(station.busy_s for station in self._stations) / (len(self._stations) * span_s),
            hit_rate=tally.num_hits / tally.num_returns if tally.num_returns else 0.0,
            first_word_mean_s=average(tally.first_words),
            first_word_p99_s=percentile(tally.first_words, 99),
            gap_mean_s=tally.gaps_s / tally.num_gaps if tally.num_gaps else math.nan,
            first_picture_mean_s=average(tally.first_pictures),
            first_picture_p99_s=percentile(tally.first_pictures, 99),
        )


def draw_crowd(arrivals_s: list[float], demands: list[tuple[Demand, ...]], seed: int) -> Crowd:
    """Let a random sample arrive at each time."""
    samples = np.random.default_rng(seed).integers(len(demands), size=len(arrivals_s))
    return Crowd(arrivals_s, [int(sample) for sample in samples], demands)
