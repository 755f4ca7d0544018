"""The real scheduler in virtual time: nothing is lost, nothing is random, time is what the costs say."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loadtests.comparison.compare import Plan, busy_trace, trace_of
from loadtests.replays.clock import VirtualClock
from loadtests.replays.replay import at_once, watch_nothing
from loadtests.replays.stand import Way
from loadtests.replays.timeline import Replayed
from loadtests.traces.arrivals import Arrivals
from loadtests.traces.mix import Mix
from loadtests.traces.sessions import Kind, Trace
from loadtests.virtual.bits import Cut, cut_like
from loadtests.virtual.costs import SPELL_S, Costs, MeasuredStep, Slowness, Spread, fit_costs, fit_in_time, read_costs, write_costs
from loadtests.virtual.replica import Replica
from loadtests.virtual.runner import VirtualRunner
from server.engine.batch import Batch
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


def test_a_fit_tells_what_a_decode_step_takes_more_right_after_other_work() -> None:
    steps = [MeasuredStep(load, COSTS.of(load) + 2e-3 * cold, bool(cold)) for load in DECODES for cold in (0, 1)]
    assert fit_costs(steps, overhead_s=0.0).cold_s == pytest.approx(2e-3, rel=0.05)


def test_the_first_decode_step_after_a_bit_takes_longer_than_the_next() -> None:
    clock = VirtualClock()
    runner = VirtualRunner(clock, replace(COSTS, cold_s=5e-3), 4, random.Random(0))
    words, picture = Batch(load=Load(und_tokens=1, rows=1)), Batch(load=Load(1, 1, 1, 2, 64, 66 * 66, 1), is_divisible=True)
    steps = runner.begin(picture)
    seconds = []
    while not steps.advance(-math.inf):
        seconds += [[runner.execute(words).execute_s for _ in range(2)]]
    assert len(seconds) == 3
    assert all(first == pytest.approx(second + 5e-3) for first, second in seconds)


def test_a_fit_tells_what_decode_steps_take_beside_a_pass() -> None:
    """What each row adds is not what it adds to a step alone: one of the processors has all of them, and the memory is shared."""
    beside = COSTS.seconds._replace(steps=2.0 * COSTS.seconds.steps, und_tokens=0.5 * COSTS.seconds.und_tokens)
    costs = replace(COSTS, words_beside=beside)
    words = [MeasuredStep(load, costs.of(load, is_beside=True), is_beside=True) for load in DECODES]
    prompts = [MeasuredStep(load, 2.0 * COSTS.of(load), is_beside=True) for load in PROMPTS]
    fit = fit_costs([*ALONE, *words, *prompts], 0.0)
    for load in DECODES:
        assert fit.of(load) == pytest.approx(COSTS.of(load), rel=0.02)
        assert fit.of(load, is_beside=True) == pytest.approx(costs.of(load, is_beside=True), rel=0.02)
    assert fit.of(PROMPTS[0], is_beside=True) == fit.of(PROMPTS[0])
    assert fit.beside.prompts == pytest.approx([2.0] * len(fit.beside.prompts), rel=0.05)


def test_what_decode_steps_beside_a_pass_do_not_tell_apart_is_as_alone() -> None:
    """All have one row: what more rows would take was held for nothing, or for the price of the keys."""
    words = [MeasuredStep(DECODES[0], 1.3 * COSTS.of(DECODES[0]), is_beside=True) for _ in range(120)]
    fit = fit_costs([*ALONE, *words], 0.0)
    for load in DECODES:
        assert fit.of(load, is_beside=True) == pytest.approx(1.3 * COSTS.of(load), rel=0.02)


def test_a_few_steps_beside_a_pass_cost_what_they_cost_alone_times_what_is_usual() -> None:
    few = [MeasuredStep(load, 1.5 * COSTS.of(load), is_beside=True) for load in DECODES[:20]]
    fit = fit_costs([*ALONE, *few], 0.0)
    assert fit.words_beside is None
    assert fit.beside.words == pytest.approx([1.5] * len(fit.beside.words), rel=0.05)


def test_a_fit_tells_what_a_pass_keeps_of_its_pace_beside_steps() -> None:
    """Of passes that have the same to do, one that was beside steps for longer had the machine whole for less."""
    rng = np.random.default_rng(3)
    steps = [MeasuredStep(load, COSTS.of(load)) for load in (*DECODES, *PROMPTS)]
    for load in PICTURES:
        seconds = COSTS.of(load) * float(rng.normal(1.0, 0.01))
        beside_s = float(rng.uniform(0.0, 1.2)) * seconds
        steps.append(MeasuredStep(load, seconds - 0.6 * beside_s, beside_s=beside_s))
    fit = fit_costs(steps, overhead_s=0.0)
    assert fit.pace_beside == pytest.approx(0.6, abs=0.03)
    assert all(fit.of(load) == pytest.approx(COSTS.of(load), rel=0.05) for load in PICTURES)


def test_steps_made_beside_a_pass_alone_tell_nothing() -> None:
    with pytest.raises(ValueError, match="no steps"):
        fit_costs([MeasuredStep(DECODES[0], 1.0, is_beside=True)], 0.0)


def test_a_pass_goes_on_beside_a_step_with_what_that_leaves_it() -> None:
    clock = VirtualClock()
    """Of the two thirds of its pace that it keeps, the engine knows only that it has three quarters of the processors."""
    costs = replace(COSTS, overhead_s=0.0, beside=Spread(words=(1.5,)), share_of_steps=0.25, pace_beside=2 / 3)
    runner = VirtualRunner(clock, costs, 4, random.Random(0))
    words, picture = (
        Batch(load=Load(und_tokens=1, rows=1), is_beside=True),
        Batch(load=Load(1, 1, 1, 2, 512, 514 * 514, 1), is_divisible=True),
    )
    picture_s, words_s = costs.of(picture.load), 1.5 * costs.of(words.load)
    steps = runner.begin(picture)
    num_words = int(0.5 * picture_s / words_s)
    assert num_words > 1
    assert [runner.execute(words).execute_s for _ in range(num_words)] == pytest.approx([words_s] * num_words)
    began_s = clock.now()
    assert steps.advance(math.inf)
    whole_s, beside_s = picture_s - 2 / 3 * num_words * words_s, num_words * words_s
    assert clock.now() - began_s == pytest.approx(whole_s)
    assert steps.result is not None
    assert steps.result.execute_s == pytest.approx(whole_s + 0.75 * beside_s)
    assert steps.result.beside_s == pytest.approx(beside_s)


def test_a_fit_keeps_how_steps_of_each_kind_differ() -> None:
    """Every fifth decode step takes twice as long as the others; prompts take what they cost."""
    decodes = [MeasuredStep(load, COSTS.of(load) * (2.0 if index % 5 == 0 else 1.0)) for index, load in enumerate(DECODES)]
    prompts = [MeasuredStep(load, COSTS.of(load)) for load in PROMPTS]
    fit = fit_costs([*decodes, *prompts], overhead_s=0.0)
    assert max(fit.spread.words) / min(fit.spread.words) == pytest.approx(2.0, rel=0.1)
    assert max(fit.spread.prompts) / min(fit.spread.prompts) == pytest.approx(1.0, rel=0.1)
    for steps in (decodes, prompts):
        factors = [fit.spread.of(step.load) for step in steps]
        mean_s = sum(fit.of(step.load) * sum(one) / len(one) for step, one in zip(steps, factors, strict=True))
        assert mean_s == pytest.approx(sum(step.seconds for step in steps))


def test_a_long_pass_is_cut_like_the_measured_one_most_like_it() -> None:
    """A word is let through between two bits: the longest bit says how long it may have to wait."""
    even = tuple([1e-3] * 10)
    steps = [
        MeasuredStep(Load(1, 1, 1, 2, 64, 66 * 66, 1), 0.01, bits_s=even, bits_per_layer=5),
        MeasuredStep(Load(1, 1, 1, 2, 256, 258 * 258, 1), 0.04, bits_s=(3e-2, 1e-2), bits_per_layer=2),
        MeasuredStep(Load(1, 1, 1, 2, 256, 258 * 258, 1), 0.04, bits_s=(4e-2,), bits_per_layer=1),
    ]
    cuts = fit_costs(steps, overhead_s=0.0).cuts
    asked = Load(1, 1, 1, 2, 240, 242 * 242, 1)
    assert cut_like(cuts, asked, COSTS.seconds, bits_per_layer=3) == pytest.approx((0.75, 0.25))
    assert cut_like(cuts, asked, COSTS.seconds, bits_per_layer=5) == pytest.approx((0.1,) * 10)
    assert cut_like(cuts, asked, COSTS.seconds, bits_per_layer=1) == (1.0,)
    assert cut_like((), asked, COSTS.seconds, bits_per_layer=3) is None
    encodes = asked._replace(encoded_pixels=1e5)
    assert cut_like(cuts, encodes, COSTS.seconds, bits_per_layer=2) is None, "an encoder's bits are unlike a layer's"


def test_the_bits_of_a_pass_take_its_time_in_all_and_in_order() -> None:
    cut = Cut(Load(1, 1, 1, 2, 64, 66 * 66, 1), 3, (0.5, 0.2, 0.3))
    clock = VirtualClock()
    runner = VirtualRunner(clock, replace(COSTS, overhead_s=0.0, cuts=(cut,)), 4, random.Random(0))
    whole_s = COSTS.of(cut.load)
    steps = runner.begin(Batch(load=cut.load, is_divisible=True, bits_per_layer=3))
    ends = []
    while not steps.advance(-math.inf):
        ends.append(clock.now())
    assert [*ends, clock.now()] == pytest.approx([0.5 * whole_s, 0.7 * whole_s, whole_s])


def test_an_engine_that_has_served_before_finds_what_it_kept() -> None:
    trace = tiny_trace()
    fresh, again = replayed_by(replica(), trace), replica().serve_after(trace, trace).replayed
    cached = [sum(record.usage.cached_text_tokens for record in one.records) for one in (fresh, again)]
    assert cached[1] > cached[0]


def test_idle_time_arrivals_and_steps_make_up_a_replay() -> None:
    costs, trace = replace(COSTS, arrival_s=3e-3), tiny_trace(horizon_s=20.0)
    served = replace(replica(), costs=costs).serve(Way.PLAIT, trace, watch_nothing)
    assert served.replayed.arrivals_s == pytest.approx(3e-3 * trace.num_requests)
    busy_s = served.replayed.arrivals_s + sum(sample.taken_s for sample in served.samples) + COSTS.overhead_s * len(served.samples)
    assert 0.0 < served.replayed.idle_s < served.replayed.span_s
    assert served.replayed.span_s - served.replayed.idle_s == pytest.approx(busy_s)


def test_a_machine_that_becomes_slower_is_told_from_steps_that_cost_more() -> None:
    """Long steps come in the slow half alone: fitted as one they would be held for dearer than they are."""
    loads = [*DECODES, *PROMPTS, *DECODES]
    halves = [1.0] * len(DECODES) + [2.0] * (len(PROMPTS) + len(DECODES))
    steps = [
        MeasuredStep(load, COSTS.of(load) * factor, at_s=0.0 if factor == 1.0 else SPELL_S)
        for load, factor in zip(loads, halves, strict=True)
    ]
    fit = fit_in_time(steps, overhead_s=0.0)
    simulated = [fit.of(step.load) * fit.slowness.at(step.at_s, step.load) for step in steps]
    assert fit.slowness.words[1] / fit.slowness.words[0] == pytest.approx(2.0, rel=0.15)
    assert simulated == pytest.approx([step.seconds for step in steps], rel=0.15)
    assert fit.slowness.at(-1.0, DECODES[0]) == fit.slowness.at(2 * SPELL_S, DECODES[0]) == 1.0


def test_a_machine_may_become_slower_for_words_alone() -> None:
    """What binds them is memory, of which other programs may take much while they leave the processors alone; beside a pass as well."""
    loads = 2 * [*DECODES, *PROMPTS]
    steps = [
        MeasuredStep(load, COSTS.of(load) * (2.0 if spell and not load.mixed else 1.0), at_s=spell * SPELL_S)
        for spell, load in zip(np.repeat([0, 1], len(loads) // 2).tolist(), loads, strict=True)
    ]
    beside = [replace(step, seconds=1.5 * step.seconds, is_beside=True) for step in steps if not step.load.mixed]
    fit = fit_in_time([*steps, *beside], overhead_s=0.0)
    assert fit.slowness.words[1] / fit.slowness.words[0] == pytest.approx(2.0, rel=0.05)
    assert fit.slowness.others == pytest.approx((1.0, 1.0), rel=0.05)
    simulated = [fit.of(step.load) * fit.slowness.at(step.at_s, step.load) for step in steps]
    assert simulated == pytest.approx([step.seconds for step in steps], rel=0.15)
    simulated = [fit.of(step.load, is_beside=True) * fit.slowness.at(step.at_s, step.load) for step in beside]
    assert simulated == pytest.approx([step.seconds for step in beside], rel=0.15)


def test_a_hiccup_in_a_spell_of_few_words_is_not_its_speed() -> None:
    """One step of 0.1 s among three stood for a machine ten times as slow, and the simulation had all words of the spell be so late."""
    few = [MeasuredStep(load, COSTS.of(load), at_s=SPELL_S) for load in [*DECODES[:3], *PROMPTS]]
    many = [MeasuredStep(load, COSTS.of(load), at_s=2 * SPELL_S) for load in [*DECODES, *PROMPTS]]
    few[0], many[0] = replace(few[0], seconds=0.1), replace(many[0], seconds=0.1)
    fit = fit_in_time([*ALONE, *few, *many], 0.0)
    assert fit.slowness.words == pytest.approx((1.0, 1.0, 1.0), rel=0.05)


def test_cold_caches_are_no_slower_machine() -> None:
    """Where most words of a spell came right after other work, the spell was held for slow, and cold caches for free."""
    cold_s = 5e-4
    words = [
        MeasuredStep(load, COSTS.of(load) + cold_s * is_cold, is_cold=is_cold, at_s=spell * SPELL_S)
        for spell in range(4)
        for load, is_cold in ((load, index % 3 > 0 and spell % 2 > 0) for index, load in enumerate(DECODES))
    ]
    fit = fit_in_time([*ALONE, *words], 0.0)
    assert fit.slowness.words == pytest.approx((1.0,) * 4, rel=0.02)
    assert fit.cold_s == pytest.approx(cold_s, rel=0.1)


def test_a_simulation_follows_the_speed_of_the_run() -> None:
    trace = at_once(tiny_trace())
    even, slow = (replace(COSTS, slowness=Slowness((factor,) * 10, (factor,) * 10)) for factor in (1.0, 2.0))
    spans = [replace(replica(), costs=costs).serve_after(tiny_trace(seed=4), trace).replayed.span_s for costs in (even, slow)]
    assert spans[1] == pytest.approx(2.0 * spans[0], rel=0.1)


DECODES = [Load(und_tokens=float(index % 7 + 1)) for index in range(100)]
PROMPTS = [Load(1, 1, und_tokens=float(10 * (index % 9 + 1)), rows=1) for index in range(60)]
PICTURES = [Load(1, 1, 1, 2, 64 * (index % 5 + 1), (64 * (index % 5 + 1)) ** 2, 1) for index in range(60)]


ALONE = [MeasuredStep(load, COSTS.of(load)) for load in [*DECODES, *PROMPTS, *PICTURES]]


def test_costs_cannot_be_fitted_to_nothing() -> None:
    with pytest.raises(ValueError, match="no steps"):
        fit_costs([], 0.0)


def test_costs_survive_their_file(tmp_path: Path) -> None:
    spread, beside = Spread((0.9, 1.1), (1.0,), (1.0,)), Spread((1.5,), (2.0,))
    costs = Costs(Load(1, 2, 3, 4, 5, 6, 7, 8, 9, 10), 0.5, 0.01, 100, 0.2, spread, (Cut(Load(), 3, (1.0,)),), 0.1, beside, 0.5, 0.6)
    for one in (costs, replace(costs, words_beside=Load(2, 3))):
        write_costs(tmp_path / "costs.json", one)
        assert read_costs(tmp_path / "costs.json") == one


def test_no_two_traces_of_a_plan_share_a_session() -> None:
    """A long-lived engine would answer the second trace from its prefix cache."""
    plan = Plan(Mix.named("tiny"), Arrivals.POISSON, (0.8, 0.1), 10, 2, seed=1)
    traces = [trace_of(plan, load, number, 1.0) for load in plan.loads for number in range(plan.num_rounds)]
    seeds = [session.seed for trace in [*traces, busy_trace(plan)] for session in trace.sessions]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "loadtests" / "results" / "mixed").rglob("costs.json")), ids=str)
def test_the_costs_that_have_been_measured_can_be_read(path: Path) -> None:
    costs = read_costs(path)

    assert costs.of(Load(und_tokens=1, rows=1)) > 0.0
    assert costs.share_of_steps or any(cut.bits_per_layer > 1 for cut in costs.cuts)
