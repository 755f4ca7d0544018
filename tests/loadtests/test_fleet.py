"""The coarse model: work is conserved, words tick once a step, caches hold what they can, routing keeps its bounds."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.simulate.demands import Demand, DemandReader, Stage
from loadtests.simulate.fleet import Crowd, Fleet, FleetFigures, draw_crowd
from loadtests.simulate.routing import LeastLoaded, PrefixAffine
from loadtests.simulate.station import Station
from loadtests.traces.sessions import Kind
from tests.loadtests.virtual import CONFIG, COSTS, tiny_trace

PLENTY = 10**9


def text(num_words: int = 10, step_s: float = 0.01, cold_s: float = 0.5, warm_s: float = 0.1) -> Stage:
    return Stage(False, cold_s, warm_s, num_words, step_s)


def picture(num_steps: int = 10, step_s: float = 0.1) -> Stage:
    return Stage(True, 0.0, 0.0, num_steps, step_s)


def chat(num_turns: int = 1, num_rows: int = 100) -> tuple[Demand, ...]:
    return tuple(Demand((text(),), num_rows, pause_s=1.0) for _ in range(num_turns))


def drawing(num_steps: int = 10) -> tuple[Demand, ...]:
    return (Demand((picture(num_steps),), 100, 0.0),)


def one_text(num_words: int) -> tuple[Demand, ...]:
    """A text without a prompt."""
    return (Demand((Stage(False, 0.0, 0.0, num_words, 0.01),), 1, 0.0),)


def run(crowd: Crowd, num_replicas: int = 1, cache_rows: int = PLENTY, fixed_s: float = 0.0, target_s: float = math.inf) -> FleetFigures:
    return Fleet(num_replicas, lambda: Station(fixed_s, 0.0, target_s), LeastLoaded(num_replicas, 1), cache_rows).run(crowd)


def test_a_text_alone_takes_its_prompt_and_a_step_for_each_word() -> None:
    figures = run(Crowd([0.0], [0], [chat()]))
    assert figures.span_s == pytest.approx(0.5 + 10 * 0.01)
    assert figures.first_word_mean_s == pytest.approx(0.5 + 0.01)
    assert figures.gap_mean_s == pytest.approx(0.01)
    assert figures.utilisation == pytest.approx(1.0)


def test_a_picture_alone_takes_its_steps_and_what_each_costs_besides() -> None:
    assert run(Crowd([0.0], [0], [drawing()]), fixed_s=0.05).first_picture_mean_s == pytest.approx(10 * 0.15)


def test_two_texts_written_together_share_each_step() -> None:
    """Both begin to write after their prompts; from then on a step holds a word of each."""
    demands = [one_text(10)]
    assert run(Crowd([0.0, 0.0], [0, 0], demands)).span_s == pytest.approx(10 * 0.02)


def test_a_step_with_a_picture_lasts_until_the_picture_is_a_step_further() -> None:
    demands = [one_text(5), drawing(10)]
    assert run(Crowd([0.0, 0.0], [0, 1], demands)).gap_mean_s == pytest.approx(0.11, rel=0.3)


def test_a_target_keeps_words_coming_and_pictures_going_on() -> None:
    demands = [one_text(50), drawing(10)]
    figures = run(Crowd([0.0, 0.0], [0, 1], demands), target_s=0.04)
    assert figures.gap_mean_s <= 0.04 + 1e-9
    assert figures.first_picture_mean_s == pytest.approx(10 * 0.1 * 0.04 / 0.03, rel=0.05)


def test_a_short_picture_does_not_wait_for_a_long_one() -> None:
    """Each step holds an Euler step of both: the short one is done after one of 0.2 s, the long one has lost 0.1 s."""
    figures = run(Crowd([0.0, 0.1], [0, 1], [drawing(100), drawing(1)]))
    assert figures.first_picture_mean_s == pytest.approx((10.1 + 0.2) / 2)


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 2)), min_size=1, max_size=40), st.integers(1, 4))
def test_every_request_is_answered(arrivals: list[tuple[float, int]], num_replicas: int) -> None:
    demands = [chat(3), drawing(), (Demand((text(), picture(), text()), 10, 0.0),)]
    crowd = Crowd(sorted(time for time, _ in arrivals), [sample for _, sample in arrivals], demands)
    figures = run(crowd, num_replicas, fixed_s=0.001)
    assert figures.num_requests == sum(len(demands[sample]) for _, sample in arrivals)
    assert 0.0 <= figures.utilisation <= 1.0 + 1e-9


def test_a_session_that_comes_back_finds_its_history_unless_there_was_no_room() -> None:
    crowd = Crowd([0.0, 0.0], [0, 0], [chat(num_turns=3)])
    assert run(crowd, cache_rows=200).hit_rate == 1.0
    assert run(crowd, cache_rows=99).hit_rate == 0.0


def test_prefix_affine_routing_brings_sessions_back_and_random_choice_does_not() -> None:
    crowd = Crowd([0.1 * index for index in range(200)], [0] * 200, [chat(num_turns=4)])
    affine = Fleet(8, lambda: Station(0.0), PrefixAffine(8, slack=2.0, least_s=5.0), PLENTY).run(crowd)
    assert affine.hit_rate > 0.85
    assert run(crowd, num_replicas=8).hit_rate < 0.6


@given(st.lists(st.floats(0, 100), min_size=1, max_size=20), st.integers(0, 10**6))
def test_nobody_is_sent_where_the_backlog_is_above_the_bound(backlogs_s: list[float], key: int) -> None:
    mean_s = sum(backlogs_s) / len(backlogs_s)
    chosen = PrefixAffine(len(backlogs_s), slack=1.25, least_s=0.0).choose(key, backlogs_s, mean_s)
    assert backlogs_s[chosen] <= 1.25 * mean_s + 1e-9


def test_a_new_replica_takes_few_sessions_from_the_others() -> None:
    idle = [0.0] * 11
    before, after = PrefixAffine(10, 1.25, 1.0), PrefixAffine(11, 1.25, 1.0)
    moved = sum(before.choose(key, idle[:10], 0.0) != after.choose(key, idle, 0.0) for key in range(2000))
    assert moved / 2000 < 0.2


def test_the_less_loaded_of_two_is_chosen() -> None:
    routing = LeastLoaded(2, seed=1)
    assert [routing.choose(0, [0.0, 9.0], 4.5) for _ in range(50)].count(0) > 30


def test_demands_follow_the_trace() -> None:
    reader = DemandReader(CONFIG, COSTS)
    for session in tiny_trace(60).sessions:
        demands = reader.demands(session)
        assert len(demands) == len(session.turns)
        words = [sum(stage.num_steps for stage in demand.stages if not stage.is_picture) for demand in demands]
        assert all(word >= turn.answer_tokens for word, turn in zip(words, session.turns, strict=True))
        if session.kind is Kind.STORY:
            assert [stage.is_picture for stage in demands[0].stages[:2]] == [False, True]
        assert all(demand.stages[0].warm_s < demand.stages[0].cold_s for demand in demands[1:])


def test_crowds_of_one_seed_are_one_crowd() -> None:
    demands = [chat(), drawing()]
    assert draw_crowd([0.0, 1.0, 2.0], demands, 5) == draw_crowd([0.0, 1.0, 2.0], demands, 5)
