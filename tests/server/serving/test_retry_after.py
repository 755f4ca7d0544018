"""Whoever is turned away is told when there will be room, from how fast requests have been leaving."""

from __future__ import annotations

import pytest

from server.messages import StepStats
from server.serving.retry_after import LONGEST_S, UNKNOWN_S, expected_wait_s, retry_after_s

BUSY = StepStats(waiting_text=9, text_drain_per_s=4.0, waiting_image=9, image_drain_per_s=0.5)


@pytest.mark.parametrize(("wants_pictures", "expected"), [(False, 9 / 4.0), (True, 9 / 0.5)])
def test_it_is_those_before_it_in_its_lane_over_the_rate_they_leave_at(wants_pictures: bool, expected: float) -> None:
    assert retry_after_s(BUSY, 18, wants_pictures=wants_pictures) == expected


def test_without_a_rate_a_fixed_time_is_said() -> None:
    assert retry_after_s(StepStats(waiting_text=9), 9, wants_pictures=False) == UNKNOWN_S


def test_nobody_is_told_to_wait_for_hours_or_not_at_all() -> None:
    slow, fast = StepStats(waiting_text=500, text_drain_per_s=0.01), StepStats(text_drain_per_s=500.0)

    assert retry_after_s(slow, 500, wants_pictures=False) == LONGEST_S
    assert retry_after_s(fast, 0, wants_pictures=False) == 1


def test_what_the_engine_has_not_counted_yet_is_waiting_too() -> None:
    """A burst comes between two steps: without this all of it would be let in. Of each lane it holds as much as leaves it."""
    assert expected_wait_s(BUSY, 18 + 31, wants_pictures=False) == pytest.approx(9 / 4.0 + 31 / 4.5)
    assert expected_wait_s(BUSY, 18 + 31, wants_pictures=True) == pytest.approx(9 / 0.5 + 31 / 4.5)
