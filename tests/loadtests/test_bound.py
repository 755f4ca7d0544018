"""How much more than the peers' way Plait can do at most: by the work of both, which is what their steps cost in sum."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.comparison.compare import Plan
from loadtests.replays.replay import watch_nothing
from loadtests.replays.stand import Way
from loadtests.simulate.bound import Bound, Work, bound
from loadtests.simulate.report import write_bounds
from loadtests.traces.arrivals import Arrivals
from loadtests.traces.mix import Mix
from server.engine.cost_model import Load
from tests.loadtests.virtual import COSTS, replica, tiny_trace

PLAN = Plan(Mix.named("tiny"), Arrivals.POISSON, (0.8,), 10, 1, 1)


def test_the_work_of_a_way_is_what_its_steps_cost_in_sum() -> None:
    served = replica().serve(Way.PLAIT, tiny_trace(), watch_nothing)

    work = Work.of(replica().work(Way.PLAIT, tiny_trace()), COSTS)

    assert work.load.steps == len(served.samples)
    expected_s = sum(sample.taken_s for sample in served.samples) + COSTS.overhead_s * len(served.samples)
    assert work.seconds == pytest.approx(expected_s)


def test_no_way_to_save_fixed_costs_goes_past_the_bound() -> None:
    found = bound(replica(), PLAN)

    assert 1.0 < found.ratio < found.most


@pytest.mark.parametrize(("load", "expected"), [(1.0, 2.0), (0.8, 1.6), (0.5, 1.0), (0.1, 1.0)])
def test_below_its_capacity_a_way_delivers_what_comes(load: float, expected: float) -> None:
    work = Work.of(Load(), COSTS)

    assert Bound(work, work).delivered(2.0, load) == pytest.approx(expected)


def test_the_page_says_what_is_left_out_and_what_it_is_worth(tmp_path: Path) -> None:
    page = write_bounds(tmp_path, {"tiny": bound(replica(), PLAN)}, 0.8, "a machine")

    assert page == (tmp_path / "bound.md").read_text()
    assert "| tokens, generation expert |" in page and "at 80% load" in page and "## tiny" in page
