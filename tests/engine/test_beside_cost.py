"""What a step is foreseen to take beside a long pass."""

from __future__ import annotations

import pytest

from server.engine.batch import Batch
from server.engine.beside_cost import NUM_KEPT, BesideCost, StepCosts
from server.engine.cost_model import CostModel, Load

WORDS = Load(und_tokens=4, pairs=400, rows=4)
MORE_WORDS = Load(und_tokens=16, pairs=4000, rows=16)
PROMPT = Load(1, 1, und_tokens=100, pairs=5000, rows=1)


def test_a_step_with_half_of_the_processors_is_taken_to_last_twice_as_long_until_one_has_been_seen() -> None:
    cost = CostModel()
    assert BesideCost(cost, 0.5).predict(WORDS) == pytest.approx(2.0 * cost.predict(WORDS))


def test_a_step_that_has_a_turn_of_its_own_takes_what_it_takes_alone() -> None:
    cost = CostModel()
    assert BesideCost(cost, 0.0).predict(WORDS) == cost.predict(WORDS)


def test_what_was_seen_of_some_rows_is_known_of_more() -> None:
    cost = CostModel()
    beside = BesideCost(cost, 0.5)
    beside.observe(WORDS, 1.4 * cost.predict(WORDS))
    assert beside.predict(MORE_WORDS) == pytest.approx(1.4 * cost.predict(MORE_WORDS))


def test_words_and_prompts_are_slowed_down_each_in_their_own_way() -> None:
    """Words wait for memory, which the pass leaves them, prompts for processors, of which they have half."""
    cost = CostModel()
    beside = BesideCost(cost, 0.5)
    for _ in range(5):
        beside.observe(WORDS, 1.3 * cost.predict(WORDS))
        beside.observe(PROMPT, 1.9 * cost.predict(PROMPT))
    assert beside.predict(WORDS) == pytest.approx(1.3 * cost.predict(WORDS))
    assert beside.predict(PROMPT) == pytest.approx(1.9 * cost.predict(PROMPT))


def test_a_prompt_that_was_slow_once_is_tried_again() -> None:
    """What is foreseen to be late is not let through, and then nothing more is learnt of it."""
    cost = CostModel()
    beside = BesideCost(cost, 0.5)
    beside.observe(PROMPT, 50.0 * cost.predict(PROMPT))
    assert beside.predict(PROMPT) == pytest.approx(2.0 * cost.predict(PROMPT))


def test_a_hiccup_teaches_nothing_and_a_lasting_change_does() -> None:
    cost = CostModel()
    beside = BesideCost(cost, 0.5)
    for number in range(NUM_KEPT):
        beside.observe(WORDS, (9.0 if number % 8 == 0 else 1.5) * cost.predict(WORDS))
    assert beside.predict(WORDS) == pytest.approx(1.5 * cost.predict(WORDS))
    for _ in range(NUM_KEPT):
        beside.observe(WORDS, 3.0 * cost.predict(WORDS))
    assert beside.predict(WORDS) == pytest.approx(3.0 * cost.predict(WORDS))


def test_a_step_beside_a_pass_teaches_nothing_of_one_alone() -> None:
    costs = StepCosts(0.5)
    before_s = costs.alone.predict(WORDS)
    for _ in range(20):
        costs.observe(Batch(load=WORDS, is_beside=True), 1.7 * before_s)
    assert costs.alone.predict(WORDS) == before_s
    assert costs.foreseen_s(Batch(load=WORDS)) == before_s
    assert costs.foreseen_s(Batch(load=WORDS, is_beside=True)) == pytest.approx(1.7 * before_s)


def test_a_step_takes_its_share_of_the_machine() -> None:
    costs = StepCosts(0.25)
    assert costs.machine_s(Batch(is_beside=True), 0.4) == pytest.approx(0.1)
    assert costs.machine_s(Batch(), 0.4) == 0.4
