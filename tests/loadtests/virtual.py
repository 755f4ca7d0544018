"""A small model on an imaginary machine, for replays in virtual time."""

from __future__ import annotations

from loadtests.traces.arrivals import Arrivals
from loadtests.traces.mix import Mix, make_trace
from loadtests.traces.sessions import Trace
from loadtests.virtual.costs import Costs
from loadtests.virtual.replica import Replica
from model.config import BagelConfig
from server.engine.cost_model import Load
from server.engine.options import SchedulerLimits

CONFIG = BagelConfig.named("tiny")
COSTS = Costs(Load(1e-3, 1e-3, 1e-3, 1e-4, 1e-4, 1e-8, 1e-5, 1e-7, 1e-7), overhead_s=1e-4, median_error=0.0, num_steps=0)


def replica(*, target_s: float | None = None, has_prefix_cache: bool = True, num_pages: int = 512) -> Replica:
    limits = SchedulerLimits(4096, 64, inter_token_target_s=target_s, has_prefix_cache=has_prefix_cache)
    return Replica(CONFIG, COSTS, num_pages, 16, limits)


def tiny_trace(num_sessions: int = 30, horizon_s: float = 1.0, seed: int = 3, arrivals: Arrivals = Arrivals.POISSON) -> Trace:
    return make_trace(Mix.named("tiny"), arrivals, num_sessions, horizon_s, seed)
