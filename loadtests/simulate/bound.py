"""How many times as much as the peers' way Plait can do at most on a trace, by the work that each has to do.

Both ways run in virtual time with everybody there at once, and the loads of their steps are added up. In seconds of the measured costs
that is their work. What Plait does is exact: it leaves out what is equal or found again, and nothing else, so its rows cannot become fewer.
What could become less is the fixed cost of its steps; a way that had none at all would be the bound.

At a load below its capacity Plait waits for sessions to come. Over a long trace it then delivers ``load`` times its capacity, and the
peers' way what it can, so that the ratio of what they deliver is the ratio of their capacities times the load, or 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from loadtests.comparison.compare import Plan, busy_trace
from loadtests.replays.stand import Way
from loadtests.virtual.costs import Costs
from loadtests.virtual.replica import Replica
from server.engine.cost_model import Load

NUM_FIXED_TERMS = 3
"""The first terms of a load are what a step costs whatever its rows."""


@dataclass(frozen=True, slots=True)
class Work:
    """All that a way has to do for a trace: the sum of its steps' loads, and its seconds by the costs of a machine."""

    load: Load
    fixed_s: float
    rows_s: float

    @classmethod
    def of(cls, load: Load, costs: Costs) -> Work:
        seconds = [cost * amount for cost, amount in zip(costs.seconds, load, strict=True)]
        overhead_s = costs.overhead_s * load.steps
        return cls(load, sum(seconds[:NUM_FIXED_TERMS]) + overhead_s, sum(seconds[NUM_FIXED_TERMS:]))

    @property
    def seconds(self) -> float:
        return self.fixed_s + self.rows_s


@dataclass(frozen=True, slots=True)
class Bound:
    """The work of both ways."""

    plait: Work
    staged: Work

    @property
    def ratio(self) -> float:
        """Return how many times as much Plait can do, by the work of both."""
        return self.staged.seconds / self.plait.seconds

    @property
    def most(self) -> float:
        """Return how many times as much it could do if its steps had no fixed cost."""
        return self.staged.seconds / self.plait.rows_s

    def delivered(self, capacity_ratio: float, load: float) -> float:
        """Return the ratio of what both deliver over a long trace under ``load``, a share of Plait's capacity."""
        return max(1.0, load * capacity_ratio)


def bound(replica: Replica, plan: Plan) -> Bound:
    """Add up the work of both ways for the sessions of ``plan``."""
    trace = busy_trace(plan)
    plait, staged = (Work.of(replica.work(way, trace), replica.costs) for way in (Way.PLAIT, Way.STAGED))
    return Bound(plait, staged)
