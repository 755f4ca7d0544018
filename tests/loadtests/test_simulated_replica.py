"""The real scheduler in virtual time: nothing is lost, nothing is random, time is what the costs say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loadtests.mixed.compare import Plan, busy_trace, trace_of
from loadtests.mixed.replay import at_once, watch_nothing
from loadtests.mixed.stand import Way
from loadtests.mixed.timeline import Replayed
from loadtests.simulate.costs import Costs, MeasuredStep, fit_costs, read_costs, write_costs
from loadtests.simulate.replica import Replica
from loadtests.traces.arrivals import Arrivals
from loadtests.traces.mix import Mix
from loadtests.traces.sessions import Kind, Trace
from server.engine.cost_model import Load
from tests.loadtests.virtual import COSTS, replica, tiny_trace


def replayed_by(replica: Replica, trace: Trace, way: Way = Way.PLAIT) -> Replayed:
    return replica.serve(way, trace, watch_nothing).replayed


@pytest.mark.parametrize(("way", "target_s"), [(Way.PLAIT, None), (Way.PLAIT, 0.01), (Way.STAGED, None)])
def test_every_request_ends_once_with_all_it_asked_for(way: Way, target_s: float | None) -> None:
    trace = tiny_trace()
    replayed = replayed_by(replica(target_s=target_s), trace, way)
    by_id = {record.request_id: record for record in replayed.records}
    assert len(by_id) == len(replayed.records) == trace.num_requests
    for session in trace.sessions:
        for index, turn in enumerate(session.turns):
            record = by_id[f"{session.session_id}.{index}"]
            assert not record.has_failed
            assert record.num_tokens == turn.answer_tokens
            assert len(record.picture_times) == (turn.drawing.num_images if turn.drawing else 0)


def test_equal_traces_take_equal_time_to_the_last_digit() -> None:
    ends = [[record.finish_s for record in replayed_by(replica(), tiny_trace()).records] for _ in range(2)]
    assert ends[0] == ends[1]


def test_nothing_happens_before_its_time() -> None:
    for record in replayed_by(replica(), tiny_trace()).records:
        times = [time for text in record.texts for time in text] + record.picture_times
        assert record.arrival_s < min(times) and max(times) <= record.finish_s


def test_a_later_turn_comes_after_the_answer_before_and_its_pause() -> None:
    trace = tiny_trace()
    by_id = {record.request_id: record for record in replayed_by(replica(), trace).records}
    for session in trace.sessions:
        for index, turn in enumerate(session.turns[1:], start=1):
            before, after = by_id[f"{session.session_id}.{index - 1}"], by_id[f"{session.session_id}.{index}"]
            assert after.arrival_s == before.finish_s + turn.pause_s


def test_alone_nobody_waits_for_anybody() -> None:
    trace = at_once(tiny_trace())
    alone_s = replica().alone(trace)
    together = replayed_by(replica(), trace).records
    assert {record.request_id for record in together} == alone_s.keys()
    assert sum(record.latency_s for record in together) > 2 * sum(alone_s.values())


def test_a_picture_alone_takes_what_its_steps_cost() -> None:
    """T - 1 Euler steps of two rows or one, worked out by hand; the prompt's step and the decoder are at most a few steps more."""
    session = next(session for session in tiny_trace().sessions if session.kind is Kind.TEXT_TO_IMAGE)
    drawing = session.turns[0].drawing
    assert drawing is not None
    row = (drawing.height // 16) * (drawing.width // 16) + 2
    least_s = (drawing.num_timesteps - 1) * (3e-3 + 1e-4 + row * 1e-4)
    assert least_s < replica().alone(tiny_trace())[f"{session.session_id}.0"] < 2.5 * least_s


def test_a_fit_finds_the_costs_behind_noisy_steps() -> None:
    rng = np.random.default_rng(1)
    loads = [Load(1, 1, 1, float(rng.uniform(1, 500)), float(rng.uniform(1, 500)), float(rng.uniform(1e3, 1e6)), 3) for _ in range(200)]
    fit = fit_costs([MeasuredStep(load, COSTS.of(load) * float(rng.normal(1.0, 0.02))) for load in loads], overhead_s=0.0)
    assert fit.median_error < 0.03
    assert all(abs(fit.of(load) / COSTS.of(load) - 1) < 0.1 for load in loads)


def test_a_fit_predicts_the_sum_of_all_steps_hiccups_included() -> None:
    loads = [Load(und_tokens=float(index % 7 + 1)) for index in range(100)]
    taken = [COSTS.of(load) * (3.0 if index % 20 == 0 else 1.0) for index, load in enumerate(loads)]
    fit = fit_costs([MeasuredStep(load, seconds) for load, seconds in zip(loads, taken, strict=True)], overhead_s=0.0)
    assert sum(fit.of(load) for load in loads) == pytest.approx(sum(taken))


def test_a_fit_tells_what_steps_between_the_bits_of_a_pass_take_more() -> None:
    steps = [MeasuredStep(load, COSTS.of(load) + 2e-3 * between, bool(between)) for load in DECODES for between in (0, 1)]
    assert fit_costs(steps, overhead_s=0.0).between_s == pytest.approx(2e-3, rel=0.05)


def test_a_fit_keeps_how_steps_differ() -> None:
    """Every fifth step takes twice as long as the others; on average a step takes what it costs."""
    factors = [2.0 if index % 5 == 0 else 1.0 for index in range(len(DECODES))]
    fit = fit_costs([MeasuredStep(load, COSTS.of(load) * factor) for load, factor in zip(DECODES, factors, strict=True)], overhead_s=0.0)
    assert sum(fit.spread) / len(fit.spread) == pytest.approx(1.0)
    assert max(fit.spread) / min(fit.spread) == pytest.approx(2.0, rel=0.1)


DECODES = [Load(und_tokens=float(index % 7 + 1)) for index in range(100)]


def test_costs_cannot_be_fitted_to_nothing() -> None:
    with pytest.raises(ValueError, match="no steps"):
        fit_costs([], 0.0)


def test_costs_survive_their_file(tmp_path: Path) -> None:
    costs = Costs(Load(1, 2, 3, 4, 5, 6, 7, 8, 9), 0.5, 0.01, 100, 0.2, (0.9, 1.1))
    write_costs(tmp_path / "costs.json", costs)
    assert read_costs(tmp_path / "costs.json") == costs


def test_no_two_traces_of_a_plan_share_a_session() -> None:
    """A long-lived engine would answer the second trace from its prefix cache."""
    plan = Plan(Mix.named("tiny"), Arrivals.POISSON, (0.8, 0.1), 10, 2, seed=1)
    traces = [trace_of(plan, load, number, 1.0) for load in plan.loads for number in range(plan.num_rounds)]
    seeds = [session.seed for trace in [*traces, busy_trace(plan)] for session in trace.sessions]
    assert len(set(seeds)) == len(seeds)
