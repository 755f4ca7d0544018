"""What a sweep of targets says pictures lose."""

from __future__ import annotations

import pytest

from loadtests.mixed.target import Kept, Untargeted

FREE_STEPS_PER_S = 10.0
DECODE_S, AROUND_S = 0.004, 0.001


def kept(words_per_s: float, euler_steps_per_s: float) -> Kept:
    alone = Untargeted(DECODE_S, DECODE_S + AROUND_S, 0.006, FREE_STEPS_PER_S, 0.5)
    return Kept(2.0, 2 * DECODE_S, 0.0, 0.0, 0.0, euler_steps_per_s, words_per_s, {}, 0, alone, alone)


def test_pictures_drawn_at_full_pace_beside_words_lose_no_less_than_is_possible() -> None:
    words_per_s = 100.0
    found = kept(words_per_s, FREE_STEPS_PER_S * (1.0 - words_per_s * DECODE_S))

    assert found.loss == pytest.approx(found.words_share) == pytest.approx(0.4)


def test_pictures_drawn_in_the_time_that_words_leave_lose_nothing_for_the_same_words() -> None:
    words_per_s = 100.0
    found = kept(words_per_s, FREE_STEPS_PER_S * (1.0 - words_per_s * (DECODE_S + AROUND_S)))

    assert found.loss_for_the_same_words == pytest.approx(0.0)
