"""Pictures stand aside for words while the machine has time for both, and never for longer than they take alone."""

from __future__ import annotations

import pytest

from tests.engine.known_costs import COSTS, EULER_S, PICTURE, TARGET_S, KnownCosts, cost_of


def test_a_short_answer_is_written_at_full_pace_beside_a_picture() -> None:
    house = KnownCosts()
    house.clock.now += 1.0
    house.picture("p")
    for _ in range(3):
        house.step()
    house.chat("a", num_tokens=30)

    batches = [house.step() for _ in range(31)]

    assert not any(batch.denoises for batch in batches)
    assert not any(other.request.request_id == "a" for other in house.scheduler.running)


def test_a_prompt_of_words_goes_before_a_picture_that_was_there_first() -> None:
    house = KnownCosts()
    house.clock.now += 1.0
    house.picture("p")
    for _ in range(3):
        house.step()
    house.chat("a", prompt_tokens=200)

    batch = house.step()

    assert batch.prefills
    assert not batch.denoises


def test_a_machine_that_was_not_idle_draws_and_writes_in_the_same_steps() -> None:
    house = KnownCosts()
    house.chat("a")
    house.picture("p")
    house.step()

    batches = [house.step() for _ in range(PICTURE.num_timesteps - 1)]

    assert all(batch.denoises and batch.decodes for batch in batches)


def test_an_idle_machine_makes_a_picture_beside_an_endless_answer_take_twice_as_long_at_most() -> None:
    house = KnownCosts()
    house.clock.now += 10 * EULER_S
    house.chat("a")
    house.picture("p")

    assert 1.6 * EULER_S < house.seconds_until_drawn("p") < 2.4 * EULER_S


def test_a_picture_stands_aside_as_long_whether_its_tokens_or_their_pairs_cost_its_time() -> None:
    """It was counted in what the cost model held a token for, which is nothing where pairs account for all, and then it hardly did."""
    by_pairs = COSTS._replace(gen_tokens=0.0, pairs=COSTS.gen_tokens / 258)
    seconds = []
    for costs in (COSTS, by_pairs):
        house = KnownCosts(costs=costs)
        house.clock.now += 10 * EULER_S
        house.chat("a")
        house.picture("p")
        seconds.append(house.seconds_until_drawn("p"))

    assert abs(seconds[0] / seconds[1] - 1.0) < 0.1


@pytest.mark.parametrize("idle_s", [0.0, 1.0])
def test_a_step_that_begins_ahead_holds_a_picture_only_where_that_does_not_stand_aside(idle_s: float) -> None:
    house = KnownCosts()
    house.clock.now += idle_s
    house.picture("p")
    for _ in range(3):
        house.step()
    house.chat("a")
    house.step()

    ahead = house.scheduler.schedule_ahead(house.scheduler.schedule())

    assert ahead.decodes
    assert bool(ahead.denoises) is not bool(idle_s)


def test_idleness_counts_once_however_many_requests_come_to_nothing_in_it() -> None:
    house = KnownCosts(num_pages=50)
    house.clock.now += 0.1
    for number in range(20):
        house.chat(f"too long {number}", prompt_tokens=2000)
    house.chat("a")
    house.picture("p")
    seconds = 0.0
    while not (batch := house.step()).denoises:
        seconds += cost_of(batch.load)

    assert 0.1 <= seconds < 0.12


def test_an_idle_machine_has_time_for_words_whoever_queues() -> None:
    house = KnownCosts()
    house.clock.now += 1.0
    house.chat("a", num_tokens=30)
    for name in "pqr":
        house.picture(name)

    batches = [house.step() for _ in range(31)]

    assert not any(batch.denoises for batch in batches)


def test_idleness_is_spent_on_words_and_then_it_is_gone() -> None:
    house = KnownCosts()
    house.clock.now += 0.1
    house.chat("a")
    for name in "pqr":
        house.picture(name)
    seconds = 0.0
    while not (batch := house.step()).denoises:
        seconds += cost_of(batch.load)

    assert 0.1 <= seconds < 0.12


def test_an_idle_machine_lets_words_through_after_every_bit_of_a_prompt_until_that_time_is_spent() -> None:
    """A word came at the pace of the target then, however idle the machine: on a quiet server the slowest by far."""
    house = KnownCosts()
    house.clock.now += 0.1
    house.chat("a")
    house.step()
    house.step()
    house.shown("b")
    assert house.scheduler.schedule().is_divisible

    seconds = 0.0
    while (batch := house.step_between()).decodes:
        seconds += cost_of(batch.load)

    assert 0.1 <= seconds < 0.11


def test_a_machine_that_was_not_idle_lets_words_through_a_prompt_when_the_target_wants_them() -> None:
    house = KnownCosts()
    house.chat("a")
    house.step()
    house.step()
    house.shown("b")
    assert house.scheduler.schedule().is_divisible

    assert house.step_between().is_empty
    house.clock.now += TARGET_S
    assert house.step_between().decodes


def test_a_tenant_owes_nothing_for_what_it_took_while_nobody_else_was_there() -> None:
    house = KnownCosts()
    house.picture("early", tenant="greedy")
    house.seconds_until_drawn("early")
    house.picture("long", tenant="other")
    house.picture("short", tenant="greedy", num_timesteps=3)

    assert house.seconds_until_drawn("short") < 0.5 * EULER_S


def test_a_picture_that_holds_the_pages_words_want_goes_on() -> None:
    house = KnownCosts(num_pages=6)
    house.clock.now += 1.0
    house.picture("p")
    for _ in range(3):
        house.step()
    house.chat("a", num_tokens=60)

    assert house.seconds_until_drawn("p") > 0
