"""Decode steps are planned as slow as they lately were."""

from __future__ import annotations

import pytest

from server.engine.cost_model import CostModel, Load
from server.engine.decode_pace import NUM_KEPT, DecodePace

ROWS = Load(und_tokens=4, pairs=400, rows=4)
MORE_ROWS = Load(und_tokens=8, pairs=800, rows=8)


def test_a_step_is_planned_as_the_cost_model_says_while_none_has_been_seen() -> None:
    cost = CostModel()
    assert DecodePace(cost).planned_s(ROWS) == cost.predict(ROWS)


def test_steps_are_planned_by_the_slow_ones_not_by_the_usual() -> None:
    """One step in five takes three times as long: a reader who is promised the mean would wait too long that often."""
    cost = CostModel()
    pace = DecodePace(cost)
    for number in range(NUM_KEPT):
        pace.note(ROWS, cost.predict(ROWS) * (3.0 if number % 5 == 0 else 1.0))
    assert pace.planned_s(ROWS) == pytest.approx(3.0 * cost.predict(ROWS))


def test_the_slowest_steps_are_known_as_well() -> None:
    """One step in twenty-five takes three times as long: that is no usual slowness, but still too often for a promise."""
    cost = CostModel()
    pace = DecodePace(cost)
    for number in range(NUM_KEPT):
        pace.note(ROWS, cost.predict(ROWS) * (3.0 if number % 25 == 0 else 1.0))
    assert pace.planned_s(ROWS) == pytest.approx(cost.predict(ROWS))
    assert pace.slowest_s(ROWS) == pytest.approx(3.0 * cost.predict(ROWS))


def test_what_is_slow_is_slow_for_any_number_of_rows() -> None:
    cost = CostModel()
    pace = DecodePace(cost)
    pace.note(ROWS, 2.0 * cost.predict(ROWS))
    assert pace.planned_s(MORE_ROWS) == pytest.approx(2.0 * cost.predict(MORE_ROWS))


def test_quick_steps_do_not_make_the_plan_shorter_than_the_cost_model_says() -> None:
    """A gap ends when the step is over: a plan that counts on luck is late without it."""
    cost = CostModel()
    pace = DecodePace(cost)
    pace.note(ROWS, 0.5 * cost.predict(ROWS))
    assert pace.planned_s(ROWS) == cost.predict(ROWS)


def test_a_slow_stretch_is_forgotten() -> None:
    cost = CostModel()
    pace = DecodePace(cost)
    for slowness in [5.0] * NUM_KEPT + [1.0] * NUM_KEPT:
        pace.note(ROWS, slowness * cost.predict(ROWS))
    assert pace.planned_s(ROWS) == cost.predict(ROWS)
