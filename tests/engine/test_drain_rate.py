"""How fast requests leave, as those who are turned away are told."""

from __future__ import annotations

import pytest

from server.engine.drain_rate import DrainRate
from server.engine.sequence import Lane
from server.messages import ImageParams, OutputMode, SamplingParams
from tests.engine.fakes import make_house, make_request


def rate_after(*finishes_s: float) -> float:
    rate = DrainRate()
    for now_s in finishes_s:
        rate.count(Lane.TEXT, now_s)
    return rate.per_s(Lane.TEXT)


def test_a_request_every_half_second_is_two_a_second() -> None:
    assert rate_after(*(0.5 * number for number in range(20))) == pytest.approx(2.0)


def test_nothing_is_known_from_a_single_finish() -> None:
    assert rate_after(1.0) == 0.0


def test_answers_that_end_in_one_step_end_at_one_time() -> None:
    """The clock goes on between them; four in 150 microseconds were taken for twenty thousand a second."""
    assert rate_after(1.0, 1.00005, 1.0001, 1.00015) == 0.0
    assert rate_after(*(begin_s + 5e-5 * k for begin_s in range(10) for k in range(4))) == pytest.approx(4.0, rel=0.01)


def test_a_stretch_of_work_after_idleness_is_measured_by_itself() -> None:
    rate = DrainRate()
    for now_s in (0.0, 1.0, 2.0):
        rate.count(Lane.TEXT, now_s)
    rate.begin_stretch()
    assert rate.per_s(Lane.TEXT) == pytest.approx(1.0), "what was measured before stands meanwhile"
    for now_s in (1000.0, 1000.5):
        rate.count(Lane.TEXT, now_s)
    assert rate.per_s(Lane.TEXT) == pytest.approx(2.0)


def test_whoever_plans_in_words_before_a_picture_waits_among_those_who_want_pictures() -> None:
    """Its client waits for the picture, and is told of the pace of pictures."""
    house = make_house(lambda _, index: 50 + index)
    planning = make_request(
        "plan", mode=OutputMode.ALTERNATE, sampling=SamplingParams(max_tokens=3), image=ImageParams(32, 32), is_thought=True
    )
    for request in (planning, make_request("chat"), make_request("story", mode=OutputMode.ALTERNATE)):
        house.scheduler.submit(request)
    assert [house.scheduler.admission.num_waiting(lane) for lane in (Lane.TEXT, Lane.PICTURE)] == [2, 1]
